// The server does not answer: no fault of the page.

export class Unreachable extends Error {}
