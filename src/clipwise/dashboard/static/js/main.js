// The live page.

import { App } from "./app.js";
import { Live } from "./live.js";

new App(document.getElementById("app"), new Live()).start();
