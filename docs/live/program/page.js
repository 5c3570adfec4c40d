// The page: one state, one run, eight screens. Screens read `app` in their `update` and change it only through its methods.

import { arrows, h, duration, paint, paintLatents } from "./dom.js";
import { Engine } from "./engine.js";
import { CudaNoise } from "./noise.js";
import { toImage, toPixels } from "./pipeline.js";
import { pngWithSettings, settingsOf } from "./png.js";
import { Run } from "./run.js";
import { alphasCumprod } from "./schedule.js";
import * as attention from "./screens/attention.js";
import * as guidance from "./screens/guidance.js";
import * as knobs from "./screens/knobs.js";
import * as loop from "./screens/loop.js";
import * as noise from "./screens/noise.js";
import * as paintScreen from "./screens/paint.js";
import * as seeds from "./screens/seeds.js";
import * as words from "./screens/words.js";
import { SCREENS, checked, defaults, fromHash, isFast, toHash, withSampler } from "./state.js";
import * as timeline from "./timeline.js";
import { Tokenizer } from "./tokenizer.js";
import * as tour from "./tour.js";

const facts = JSON.parse(document.getElementById("facts").textContent);
const start = defaults(facts), find = (id) => document.getElementById(id);
const REQUEST = ["prompt", "negative", "seed", "steps", "scale", "sampler", "width", "height"];
const pick = (state) => Object.fromEntries(REQUEST.map((name) => [name, state[name]]));

const app = {
  facts,
  start,
  tokenizer: new Tokenizer(facts.tokenizer),
  state: fromHash(location.hash, start),
  engine: null, // until the networks are loaded
  run: null,
  index: 0, // the step that is looked at
  get step() {
    return this.run?.steps[this.index];
  },
  checked: (state) => checked(state, start),

  /** Change settings; nothing is drawn yet. */
  set(patch) {
    if (patch.screen) requestAnimationFrame(() => find(`tab-${app.state.screen}`).scrollIntoView({ block: "nearest", inline: "center" }));
    app.state = app.checked({ ...app.state, ...patch });
    history.replaceState(null, "", toHash(app.state, start));
    update();
  },

  /** Whether the run shown is the one that the settings ask for. */
  isCurrent: () => app.run && REQUEST.every((name) => app.run.request[name] === app.state[name]) && !app.run.request.muted && !app.run.request.start && !app.run.origin,

  /** Whether the settings have changed since the run shown was begun. */
  isStale: () => Boolean(app.run) && !app.run.drawing && REQUEST.some((name) => app.run.asked[name] !== app.state[name]),

  /** Draw the settings, with `patch` first; `muted` are factors for the words' attention, `start` is what to start from. */
  async draw({ muted, start, ...patch } = {}) {
    app.set(patch);
    const run = new Run(app, { ...pick(app.state), muted, start });
    if (muted) run.before = app.run?.before ?? (app.run?.origin ? null : app.run);
    await app.begin(run);
  },

  /** Go on from the step that is looked at, with other words or another scale. */
  async fork(patch) {
    const origin = app.run.origin ?? app.run, replay = app.run.steps.slice(0, app.index);
    const run = new Run(app, { ...pick(app.checked({ ...app.run.request, ...patch })), start: app.run.request.start });
    if (run.request.prompt === app.run.request.prompt) run.request.muted = app.run.request.muted;
    for (const [key, pixels] of app.run.frames) if (Number(key.split(" ")[1]) < app.index) run.frames.set(key, pixels);
    Object.assign(run, { origin, forkedAt: app.index });
    await app.begin(run, replay);
  },

  async begin(run, replay) {
    app.run?.abandon();
    app.run = run;
    run.asked = pick(app.state);
    app.index = 0;
    following = true;
    error("");
    update();
    await app.guard(run.draw(app.changed, replay), run);
  },

  /** Wait for a run; what goes wrong is told in a sentence. */
  async guard(promise, run) {
    try {
      await promise;
    } catch (problem) {
      run.stop();
      error(problem.message);
    }
    update();
  },

  /** Look at another run, as it is. */
  show(run) {
    app.run = run;
    run.abandoned = false;
    app.select(Math.min(app.index, run.steps.length - 1));
  },

  select(index) {
    const last = (app.run?.steps.length ?? 0) - 1;
    app.index = Math.max(0, Math.min(last, index || 0));
    following = app.index === last;
    update();
  },

  /** A run has something new. */
  changed(what) {
    if (what === "step" && following) app.index = app.run.steps.length - 1;
    if (what === "done" && app.run.secondsPerStep) pace = speed(app.run) ?? pace;
    schedule();
  },

  /** Tell what went wrong, in a sentence; "" takes it back. */
  fail: (message) => error(message),

  accent() {
    const probe = getComputedStyle(document.documentElement).getPropertyValue("--accent-rgb");
    return probe.split(",").map(Number);
  },
};

let following = true; // whether the newest step is looked at
let pace; // seconds for a step and a latent of the picture
let waiting = false;
let lost = ""; // why the GPU was given up

/** Redraw once a frame, however much has changed. */
function schedule() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => ((waiting = false), update()));
}

const speed = (run) => run.seconds && run.seconds / run.steps.length / (run.request.width * run.request.height * (run.request.scale > 1 ? 2 : 1));

function error(message) {
  find("error").textContent = message;
  find("error").hidden = !message;
}

/** How far the drawing is, or how long it will take. */
function status() {
  const { run, state, engine } = app, bar = find("progress");
  bar.hidden = !run?.drawing;
  if (!engine) return;
  if (run?.drawing) {
    const { total } = run, done = run.steps.length;
    bar.max = total;
    bar.value = done;
    const left = run.secondsPerStep ? (((performance.now() - run.started) / 1000) * (total - done)) / Math.max(1, done) : null;
    return `Step ${done} of ${total}${left === null ? "" : `, about ${duration(left)} left`}`;
  }
  const expected = pace && pace * state.steps * state.width * state.height * (state.scale > 1 ? 2 : 1);
  const estimate = expected ? `About ${duration(expected)} for a picture here.` : "";
  if (app.isStale()) return `The settings have changed. Press Draw. ${estimate}`;
  if (run?.pixels) return `Drawn in ${duration(run.seconds)}${run.origin ? `, from step ${run.forkedAt + 1} on with “${run.request.prompt}”` : ""}.`;
  if (run?.stopped && run.steps.length) return `Stopped after step ${run.steps.length} of ${run.total}. This is the guess so far.`;
  return run?.stopped ? `Stopped. ${estimate}` : estimate;
}

// The fixed parts of the page

const screens = Object.entries({ words, noise, loop, guidance, attention, knobs, seeds, paint: paintScreen });
const views = Object.fromEntries(screens.map(([name, { mount }]) => [name, mount(find(`stage-${name}`), app)]));
const film = timeline.mount(find("timeline"), app);
const guide = tour.mount(find("tour"), app);
const result = find("result");

function update() {
  const { state, run, engine } = app;
  for (const name of SCREENS) {
    find(`screen-${name}`).hidden = name !== state.screen;
    find(`tab-${name}`).setAttribute("aria-selected", String(name === state.screen));
    find(`tab-${name}`).tabIndex = name === state.screen ? 0 : -1;
  }
  for (const name of ["prompt", "seed"]) if (document.activeElement !== find(name)) find(name).value = state[name];
  find("timeline").hidden = !["loop", "guidance", "attention"].includes(state.screen) || !run;
  if (!find("timeline").hidden) film.update();
  views[state.screen].update();
  const newest = run?.newest;
  result.classList.toggle("pixelated", !newest);
  if (newest) paint(result, newest, run.request.width, run.request.height);
  else {
    const { factor, channels } = facts.config, [height, width] = [state.height / factor, state.width / factor];
    paintLatents(result, new CudaNoise(state.seed).randn(channels * height * width), height, width);
  }
  result.classList.toggle("waiting", !run?.pixels && !run?.stopped);
  result.classList.toggle("stale", app.isStale());
  const text = status();
  if (text !== undefined) find("status").textContent = text;
  find("fast").checked = isFast(state);
  find("draw").textContent = run?.drawing ? "Stop" : "Draw";
  find("draw").disabled = find("fast").disabled = !engine;
  find("save").disabled = !run?.pixels;
  if (engine) find("device").textContent = engine.onGpu ? "The UNet runs on the GPU, the other networks on one CPU core." : `Networks run on one CPU core. ${lost}`;
}

find("request").onsubmit = (event) => {
  event.preventDefault();
  if (app.run?.drawing) return app.run.stop();
  app.draw({ prompt: find("prompt").value, seed: find("seed").value.trim() });
};
find("prompt").oninput = () => app.set({ prompt: find("prompt").value });
find("seed").oninput = () => /^\d{1,19}$/.test(find("seed").value) && app.set({ seed: find("seed").value });
find("dice").onclick = () => app.draw({ seed: String(Math.floor(Math.random() * 1e6)) });
find("fast").onchange = () => app.draw(withSampler(app.state, find("fast").checked ? "lcm" : start.sampler, start));
find("tour-start").onclick = guide.start;
find("save").onclick = async () => {
  const blob = await pngWithSettings(result, settingsOf(app.run, facts));
  const link = h("a", { href: URL.createObjectURL(blob), download: `${app.run.request.prompt.replace(/\W+/g, "-").slice(0, 60) || "picture"}-${app.run.request.seed}.png` });
  link.click();
  URL.revokeObjectURL(link.href);
};
find("link").onclick = async () => {
  const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
  find("link").textContent = copied ? "Copied" : "It is the page’s address";
  setTimeout(() => (find("link").textContent = "Copy link"), 2000);
};
find("examples").append(...facts.examples.map((text) => h("button", { class: "example", onclick: () => app.draw({ prompt: text }) }, text)));

for (const name of SCREENS) find(`tab-${name}`).onclick = () => app.set({ screen: name });
arrows(find("way"));
document.onkeydown = (event) => {
  if (event.target.matches("input, select, textarea, button, summary") || find("timeline").hidden) return;
  if (event.key === "ArrowRight") film.move(1);
  else if (event.key === "ArrowLeft") film.move(-1);
  else if (event.key === " ") film.toggle();
  else return;
  event.preventDefault();
};
addEventListener("hashchange", () => {
  app.state = fromHash(location.hash, start);
  update();
});

// Shapes, code and notebooks, as Python wrote them

for (const cell of document.querySelectorAll("[data-shape]")) {
  const [where, name] = cell.dataset.shape.split(".");
  cell.textContent = facts.shapes[where][name];
}
for (const place of document.querySelectorAll("[data-code]")) {
  const { name, path, line, source } = facts.code[place.dataset.code];
  const link = h("a", { href: `${facts.docs}${path}.html#L-${line}` }, `${path}, line ${line}`);
  place.append(h("div", { class: "code" }, link, h("details", {}, h("summary", {}, h("code", {}, name)), h("pre", { tabindex: 0 }, source))));
}
for (const link of document.querySelectorAll("[data-docs]")) link.href = facts.docs + link.dataset.docs;
for (const place of document.querySelectorAll("[data-fact]")) place.textContent = facts[place.dataset.fact].toLocaleString("en");

update();
const query = new URLSearchParams(location.search);
const ready = Engine.start(facts, {
  fast: isFast(app.state),
  software: query.has("software-gpu"), // for the tests: WebGPU without a GPU
  onProgress: (message) => (find("status").textContent = message),
  onGpuLost: (message) => ((lost = message), error(message), update()),
});

window.minisd = { app, facts, tokenizer: app.tokenizer, CudaNoise, alphasCumprod, toImage, toPixels, ready, pngWithSettings, settingsOf };
ready.then((engine) => {
  app.engine = engine;
  find("status").textContent = "";
  update();
  if (!query.has("wait")) app.draw();
}, (problem) => error(`The networks could not start. ${problem.message}`)); // prettier-ignore
