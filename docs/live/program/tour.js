// The tour: nine stops. Each asks for a prediction, answers it, and gives something to do, which a button can show.
//
// A stop's `covers` are the places on its screen that would give the answer away: they are covered until the reader has answered. `show`
// does what the task says, except for pressing the last button, whose id is `press`. `watch` is the element to look at afterwards. Settings
// that go through `change` are restored when the tour closes.

import { h } from "./dom.js";
import { isFast, withSampler } from "./state.js";

const find = (id) => document.getElementById(id);

/** Moves one of the page's controls as a reader would. */
function turn(id, value) {
  find(id).value = value;
  for (const kind of ["input", "change"]) find(id).dispatchEvent(new Event(kind, { bubbles: true }));
}

/** Shows the original run, if this one was forked from it. */
const original = (app) => app.run?.origin && app.show(app.run.origin);

/** Paints a blob in the middle of the board, with the keys that a reader has for it. */
function dab() {
  const board = document.querySelector("#stage-paint .board");
  for (const way of ["Right", "Down", "Left", "Left", "Up", "Up", "Right", "Right"]) {
    for (const key of [`Arrow${way}`, " "]) board.dispatchEvent(new KeyboardEvent("keydown", { key }));
  }
}

const STOPS = [
  {
    screen: "noise", title: "What is noise?",
    text: "A picture here begins as random numbers, nothing else. The seed decides which ones.",
    question: "Add one to the seed. How much of the noise changes?",
    options: ["All of it", "A few numbers", "Nothing"], right: 0,
    answer: "All of it. Seeds 1 and 2 are as unrelated as seeds 1 and 1,000.",
    task: "Change the seed at the top and watch the four grey squares.",
    show: ({ state }, change) => change({ seed: String(BigInt(state.seed) + 1n) }),
  },
  {
    screen: "noise", title: "How does a picture drown?",
    text: "In training, pictures are mixed with noise, a little or a lot. The timestep t says how much.",
    question: "At t = 400, can you still tell what the picture shows?",
    options: ["Yes, roughly", "No, it is all noise"], right: 0,
    answer: "Yes, roughly. The large shapes survive long after the details are gone, so a network that removes noise learns large shapes first.",
    covers: "#stage-noise figure:nth-child(n + 2)", enter: () => turn("drown", 400),
    task: "Move t until you can no longer tell. Then move it back.",
    show: () => turn("drown", Number(find("drown").value) < 700 ? 800 : 400),
  },
  {
    screen: "words", title: "What does the model read?",
    text: "Words become tokens from a fixed list, and tokens become 77 rows of numbers.",
    question: "You type a word that the model has never seen. What happens?",
    options: ["An error", "It is spelled in pieces", "It is skipped"], right: 1,
    answer: "It is spelled in pieces, down to single letters. The model gets tokens, but nobody taught it what they mean together.",
    task: "Add a word that is not in the list at the bottom, and watch its tokens.",
    show: ({ state }, change) => change({ prompt: `${state.prompt} wizard` }),
  },
  {
    screen: "loop", title: "What does the network guess?",
    text: "The network sees x and predicts the noise in it. Take that noise away, and what is left is its guess of the whole picture: x̂₀.",
    question: "What does the first guess look like, made from pure noise?",
    options: ["A sharp picture", "A blur", "Noise"], right: 1,
    answer: "A blur: the average of all pictures that this noise could come from. With each step fewer pictures remain possible, so the guess gets sharper.",
    covers: "#timeline .strip", enter: (app) => app.select(Infinity),
    task: "Go to the first step, then play the film.",
    show: (app) => (app.select(0), find("play").click()),
  },
  {
    screen: "loop", title: "When is the picture decided?",
    text: "You can stop the film at any step and let it go on with other words.",
    question: "You swap the words at a late step. What changes?",
    options: ["Everything", "Colours and details", "Nothing at all"], right: 1,
    answer: "Colours and details. The large shapes are already in x, and little noise is left to move them.",
    enter: original,
    task: "Go to a late step, change the words beside “From step … on” and press “Go on from here”. Then try an early step.",
    show: (app) => (app.select(Math.floor(0.75 * app.run?.steps.length)), turn("fork-words", "a blue car in the snow")),
    press: "go-on", watch: "#stage-loop",
  },
  {
    screen: "guidance", title: "Why predict twice?",
    text: "At each step the network predicts the noise with your words and without them. The loop goes further in the direction of the difference.",
    question: "How different are the two predictions?",
    options: ["Almost opposite", "A few degrees apart", "The same"], right: 1,
    answer: "A few degrees, except near the end, where little noise is left and the words weigh more. The small difference carries all that they mean.",
    enter: (app) => (original(app), app.select(Math.floor(app.run?.steps.length / 2))),
    covers: "#stage-guidance .four, #stage-guidance .arrows figure:first-child",
    task: "Move the guidance scale w and watch the long arrow and the guess beside it.",
    show: () => turn("what-if", Number(find("what-if").value) < 8 ? 10 : 1),
  },
  {
    screen: "attention", title: "Where is a word read?",
    text: "In cross-attention, every place in the picture divides its attention among the 77 boxes.",
    question: "You mute the word for a thing. What happens to the thing?",
    options: ["It fades or changes", "It moves", "Nothing"], right: 0,
    answer: "It usually fades or becomes something else. Other boxes still carry some of its meaning, because the text encoder mixed them.",
    enter: original,
    task: "Choose a noun, mute it, and press “Draw with this attention”.",
    show: () => turn("weight", 0),
    press: "draw-attention", watch: "#stage-attention .two",
  },
  {
    screen: "knobs", title: "What do the knobs do?",
    text: "Two pictures from the same noise show what one setting does.",
    question: "From 20 steps to 40, with the same seed: how much changes?",
    options: ["A different picture", "Hardly anything"], right: 1,
    answer: "Hardly anything. The steps follow a path that the noise and the words have set. More steps only follow it more exactly.",
    task: "Give B twice the steps and draw both. Then change B’s guidance.",
    show: (app) => (turn("b-scale", app.state.scale), turn("b-steps", 2 * app.state.steps)),
    press: "draw-both", watch: "#stage-knobs",
  },
  {
    screen: "paint", title: "Must it start from noise?",
    text: "The loop can also start from a picture that is mixed with noise. The strength says how much noise is added.",
    question: "You paint a blob and give it a strength of 0.6. What stays of it?",
    options: ["Every stroke", "Its place and colour, roughly", "Nothing"], right: 1,
    answer: "Its place and colour, roughly. That much noise hides edges and details, and the words decide what takes their place.",
    task: "Paint a blob, write at the top what it should be, and press “Draw from here”. Try other strengths.",
    show: (_, change) => (change({ prompt: "a red ball in the snow" }), find("blank").click(), turn("strength", 0.6), dab()),
    press: "draw-here", watch: "#stage-paint figure:nth-child(2)",
  },
];

export function mount(root, app) {
  let stop = 0;
  const changed = new Map(); // settings that the tour has changed: name → [before, after]

  function change(patch) {
    for (const [name, value] of Object.entries(patch)) changed.set(name, [changed.get(name)?.[0] ?? app.state[name], value]);
    app.set(patch);
  }

  /** Puts back what the tour has changed, except what the reader has changed since. */
  function restore() {
    const mine = [...changed].filter(([name, [, after]]) => app.state[name] === after);
    changed.clear();
    app.set(Object.fromEntries(mine.map(([name, [before]]) => [name, before])));
  }

  /** Covers these places, and nothing else. */
  function cover(places) {
    unmark("covered");
    for (const place of places ? document.querySelectorAll(places) : []) place.classList.add("covered");
  }

  function show(next, note) {
    stop = next;
    const { screen, title, text, question, options, right, answer, task, covers, enter, show: act, press, watch } = STOPS[stop];
    app.set({ screen });
    enter?.(app);
    cover(covers);
    unmark("beckon");
    look(`#stage-${screen}`);
    const told = h("p", { class: "answer", "aria-live": "polite" });
    const choices = options.map((option, i) => h("button", { class: "choice", onclick: () => {
      choices.forEach((choice, j) => choice.classList.toggle("right", j === right));
      choices.forEach((choice, j) => choice.classList.toggle("taken", j === i));
      told.replaceChildren(h("strong", {}, i === right ? "Yes. " : "Not quite. The answer: "), answer);
      after.hidden = false;
      after.scrollIntoView({ block: "nearest" });
      cover();
    } }, option)); // prettier-ignore
    const then = h("strong", { role: "status" });
    const after = h("p", { class: "task", hidden: true }, h("strong", {}, "Try it. "), task, " ", h("button", { class: "link", onclick: () => {
      act(app, change);
      const button = press && find(press);
      if (button?.textContent === "Stop") button.click(); // a run that is still drawing
      if (button) then.textContent = ` Now press “${beckon(button, () => look(watch))}”.`;
      after.scrollIntoView({ block: "nearest" });
    } }, "Show me"), then); // prettier-ignore
    const last = stop === STOPS.length - 1;
    root.replaceChildren(
      h("header", {}, h("small", {}, `Stop ${stop + 1} of ${STOPS.length}`), h("button", { class: "round", "aria-label": "Close the tour", onclick: close }, "×")),
      note ? h("p", { class: "quiet" }, note) : "",
      h("h2", { tabindex: -1 }, title), h("p", {}, text), h("p", { class: "question" }, question), h("div", { class: "choices" }, choices), told, after,
      h("footer", {}, h("button", { class: "quiet", disabled: stop === 0, onclick: () => show(stop - 1) }, "Back"),
        h("button", { onclick: () => (last ? finish() : show(stop + 1)) }, last ? "Finish" : "Next")),
    ); // prettier-ignore
    root.hidden = false;
    for (const panel of [root, root.parentElement]) panel.scrollTop = 0;
    document.body.classList.add("touring");
    root.querySelector("h2").focus({ preventScroll: true });
  }

  /** The tour needs guidance and many steps, so it turns fast mode off. */
  function start() {
    const fast = isFast(app.state);
    if (fast) change(withSampler(app.state, app.start.sampler, app.start));
    if (fast && app.engine) app.draw();
    show(stop, fast && "Fast mode is off during the tour, because the tour is about guidance and many steps.");
  }

  function close() {
    root.hidden = true;
    document.body.classList.remove("touring");
    cover();
    unmark("beckon");
    restore();
    find("tour-start").focus();
  }

  function finish() {
    close();
    stop = 0;
  }

  root.onkeydown = (event) => event.key === "Escape" && close();
  return { start, stops: STOPS, show };
}

/** Takes a class from all that have it. */
function unmark(name) {
  for (const marked of document.querySelectorAll(`.${name}`)) marked.classList.remove(name);
}

/** On a phone, where the tour covers the lower half: brings an element to the top. */
function look(selector) {
  if (matchMedia("(max-width: 760px)").matches) requestAnimationFrame(() => document.querySelector(selector).scrollIntoView());
}

/** Draws the eye to a button until it is pressed; returns what it says. */
function beckon(button, onPress) {
  button.classList.add("beckon");
  button.addEventListener("click", () => (button.classList.remove("beckon"), onPress()), { once: true });
  button.scrollIntoView({ block: "center" });
  return button.textContent;
}
