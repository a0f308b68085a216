// The report: the same page over what the file itself carries.

import { App } from "./app.js";
import { Kept } from "./kept.js";

const data = JSON.parse(document.getElementById("data").textContent);
new App(document.getElementById("app"), new Kept(data)).start();
