// The tour: nine stops. Each asks for a prediction, answers it, and gives something to do, which a button can show.

import { h } from "./dom.js";

const find = (id) => document.getElementById(id);

/** Moves one of the page's controls as a reader would. */
function turn(id, value) {
  find(id).value = value;
  for (const kind of ["input", "change"]) find(id).dispatchEvent(new Event(kind, { bubbles: true }));
}

const STOPS = [
  {
    screen: "noise", title: "What is noise?",
    text: "A picture here begins as random numbers, nothing else. The seed decides which ones.",
    question: "Add one to the seed. How much of the noise changes?",
    options: ["All of it", "A few numbers", "Nothing"], right: 0,
    answer: "All of it. Seeds 1 and 2 are as unrelated as seeds 1 and 1,000.",
    task: "Change the seed at the top and watch the four grey squares.",
    show: (app) => app.set({ seed: String(BigInt(app.state.seed) + 1n) }),
  },
  {
    screen: "noise", title: "How does a picture drown?",
    text: "In training, pictures are mixed with noise, a little or a lot. The timestep t says how much.",
    question: "At t = 400, can you still tell what the picture shows?",
    options: ["Yes, roughly", "No, it is all noise"], right: 0,
    answer: "Yes, roughly. The large shapes survive long after the details are gone, so a network that removes noise learns large shapes first.",
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
    show: (app) => app.set({ prompt: `${app.state.prompt} wizard` }),
  },
  {
    screen: "loop", title: "What does the network guess?",
    text: "The network sees x and predicts the noise in it. Take that noise away, and what is left is its guess of the whole picture: x̂₀.",
    question: "What does the first guess look like, made from pure noise?",
    options: ["A sharp picture", "A blur", "Noise"], right: 1,
    answer: "A blur: the average of all pictures that this noise could come from. With each step fewer pictures remain possible, so the guess gets sharper.",
    task: "Go to the first step, then play the film.",
    show: (app) => app.select(0),
  },
  {
    screen: "loop", title: "When is the picture decided?",
    text: "You can stop the film at any step and let it go on with other words.",
    question: "You swap the words at a late step. What changes?",
    options: ["Everything", "Details only", "Nothing at all"], right: 1,
    answer: "Mostly details. The large shapes are already in the latents, and little noise is left to move them.",
    task: "Go to a late step, change the words beside “From step … on” and press “Go on from here”. Then try an early step.",
    show: (app) => (app.select(Math.floor(0.75 * app.run?.steps.length)), turn("fork-words", "a blue car in the snow")),
  },
  {
    screen: "guidance", title: "Why predict twice?",
    text: "At each step the network predicts the noise with your words and without them. The loop goes further in the direction of the difference.",
    question: "How different are the two predictions?",
    options: ["Almost opposite", "A few degrees apart", "The same"], right: 1,
    answer: "A few degrees, except near the end, where little noise is left and the words weigh more. The small difference carries all that they mean.",
    task: "Move the guidance scale w and watch the long arrow and the guess beside it.",
    show: () => turn("what-if", Number(find("what-if").value) < 8 ? 10 : 1),
  },
  {
    screen: "attention", title: "Where is a word read?",
    text: "In cross-attention, every place in the picture divides its attention among the 77 boxes.",
    question: "You mute the word for a thing. What happens to the thing?",
    options: ["It fades or changes", "It moves", "Nothing"], right: 0,
    answer: "It usually fades or becomes something else. Other boxes still carry some of its meaning, because the text encoder mixed them.",
    task: "Choose a noun, mute it, and press “Draw with this attention”.",
    show: () => turn("weight", 0),
  },
  {
    screen: "knobs", title: "What do the knobs do?",
    text: "Two pictures from the same noise show what one setting does.",
    question: "From 20 steps to 40, with the same seed: how much changes?",
    options: ["A different picture", "Hardly anything"], right: 1,
    answer: "Hardly anything. The steps follow a path that the noise and the words have set. More steps only follow it more exactly.",
    task: "Give B twice the steps and draw both. Then change B’s guidance.",
    show: (app) => (turn("b-scale", app.state.scale), turn("b-steps", 2 * app.state.steps)),
  },
  {
    screen: "paint", title: "Must it start from noise?",
    text: "The loop can also start from a picture that is mixed with noise. The strength says how much noise is added.",
    question: "You paint a blob and give it a strength of 0.6. What stays of it?",
    options: ["Every stroke", "Its place and colour, roughly", "Nothing"], right: 1,
    answer: "Its place and colour, roughly. That much noise hides edges and details, and the words decide what takes their place.",
    task: "Paint a blob, write at the top what it should be, and press “Draw from here”. Try other strengths.",
    show: () => turn("strength", Number(find("strength").value) < 0.8 ? 0.9 : 0.4),
  },
];

export function mount(root, app) {
  let stop = 0;

  function show(next) {
    stop = next;
    const { screen, title, text, question, options, right, answer, task, show: act } = STOPS[stop];
    app.set({ screen });
    const told = h("p", { class: "answer", "aria-live": "polite" });
    const choices = options.map((option, i) => h("button", { class: "choice", onclick: () => {
      choices.forEach((choice, j) => choice.classList.toggle("right", j === right));
      choices.forEach((choice, j) => choice.classList.toggle("taken", j === i));
      told.replaceChildren(h("strong", {}, i === right ? "Yes. " : "Not quite. The answer: "), answer);
      after.hidden = false;
    } }, option)); // prettier-ignore
    const after = h("p", { class: "task", hidden: true }, h("strong", {}, "Try it. "), task, " ", h("button", { class: "link", onclick: () => act(app) }, "Show me"));
    const last = stop === STOPS.length - 1;
    root.replaceChildren(
      h("header", {}, h("small", {}, `Stop ${stop + 1} of ${STOPS.length}`), h("button", { class: "round", "aria-label": "Close the tour", onclick: close }, "×")),
      h("h2", { tabindex: -1 }, title), h("p", {}, text), h("p", { class: "question" }, question), h("div", { class: "choices" }, choices), told, after,
      h("footer", {}, h("button", { class: "quiet", disabled: stop === 0, onclick: () => show(stop - 1) }, "Back"),
        h("button", { onclick: () => (last ? finish() : show(stop + 1)) }, last ? "Finish" : "Next")),
    ); // prettier-ignore
    root.hidden = false;
    document.body.classList.add("touring");
    root.querySelector("h2").focus({ preventScroll: true });
  }

  function close() {
    root.hidden = true;
    document.body.classList.remove("touring");
    find("tour-start").focus();
  }

  function finish() {
    close();
    stop = 0;
  }

  root.onkeydown = (event) => event.key === "Escape" && close();
  return { start: () => show(stop), stops: STOPS, show };
}
