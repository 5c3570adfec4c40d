"""The live page draws what the Python program draws: the same ids, noise, latents at every step, and picture."""

import io
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from live.browser import PAGE, browser, missing, run
from PIL import Image

from minisd import StableDiffusionPipeline
from minisd.attention_maps import attention_maps
from minisd.cuda_noise import CudaNoise
from minisd.editing import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from minisd.generate import main
from minisd.image import to_pil
from minisd.schedulers.names import SAMPLERS
from minisd.tiny.picture_book import caption, sample

pytestmark = [pytest.mark.live, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
ROOT = PAGE.parents[3]
SOURCES = ROOT / "docs" / "live"
PROMPTS = [
    "",
    " ",
    "a",
    "A Cat  and\ta DOG",
    "can't won't they'll",
    "naïve café",
    "日本語の猫",
    "🦄🦄 rides!",
    "1234 3.14",
    "İstanbul ΣΑΣ",
]
PROMPTS += [
    "<|endoftext|> a <|startoftext|>",
    "<|ENDOFTEXT|>",
    "a\u00a0b\u2003c",
    "e\u0301",
    "!!!? ... --",
    "don''t 's 'S",
    "a_b-c/d",
]
PROMPTS += ["x" * 300, "\u200bword"]
REQUEST = {"seed": 3, "steps": 5, "scale": 2.0, "sampler": "pndm", "height": 128, "width": 128, "negative": ""}


@pytest.fixture(scope="module")
def pipe():
    pipe = StableDiffusionPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def page():
    newest = max(path.stat().st_mtime for path in SOURCES.rglob("*") if path.is_file())
    if not PAGE.exists() or PAGE.stat().st_mtime < newest:
        subprocess.run([sys.executable, SOURCES / "build.py"], check=True, timeout=1200)
    with browser() as driver:
        yield driver


def captions(count: int) -> list[str]:
    return [caption(sample(random.Random(i)), random.Random(i)) for i in range(count)]


def drawn(page, request: dict, what: str = "latents") -> dict:
    """What the page computes: of every step the `what`, and the image."""
    script = """
        const engine = await minisd.ready, steps = [];
        const { image } = await engine.draw(args[0], (step) => steps.push(Array.from(step[args[1]])));
        return { steps, pixels: Array.from(minisd.toPixels(image)) };
    """
    return run(page, script, request, {"latents": "next"}.get(what, what))


def fit(pipe, sampler: str):
    """Give the pipeline a sampler, and for LCM's the LoRA that belongs to it."""
    pipe.scheduler = SAMPLERS[sampler].from_config(pipe.scheduler.config)
    pipe.unload_lora_weights()
    if sampler == "lcm":
        pipe.load_lora_weights("tiny")


def expected(pipe, request: dict):
    fit(pipe, request["sampler"])
    steps = list(
        pipe.denoise(
            request["prompt"],
            request["height"],
            request["width"],
            request["steps"],
            request["scale"],
            request["negative"],
            generator=CudaNoise(request["seed"]),
        )
    )
    return steps, np.asarray(to_pil(pipe.decode(steps[-1].latents))[0].convert("RGBA"))


@pytest.mark.filterwarnings("ignore:the prompt has")
def test_ids(page, pipe):
    prompts = PROMPTS + captions(50)
    theirs = run(page, "return args[0].map((text) => minisd.tokenizer.encode(text).ids)", prompts)
    for prompt, ids in zip(prompts, theirs):
        assert ids == pipe.tokenizer.encode(prompt), prompt


@pytest.mark.parametrize("seed", [0, 1, 42, 2**32 + 5, 2**64 - 1])
def test_noise(page, seed):
    script = "const noise = new minisd.CudaNoise(args[0]); return [Array.from(noise.randn(1024)), Array.from(noise.randn(5))]"
    theirs, ours = run(page, script, str(seed)), CudaNoise(seed)
    for numbers, shape in zip(theirs, [(1024,), (5,)]):
        torch.testing.assert_close(torch.tensor(numbers), ours.randn(shape), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"sampler": "ddim"},
        {"sampler": "lms"},
        {"sampler": "lcm", "steps": 4, "scale": 1.0},
        {"sampler": "lcm", "steps": 7},
        {"scale": 1.0},
        {"scale": 6.0, "seed": 2**40},
        {"steps": 1},
        {"steps": 2},
        {"height": 96, "width": 168},
        {"negative": "a red house"},
    ],
    ids=str,
)
def test_latents_at_every_step(page, pipe, change):
    request = REQUEST | change | {"prompt": captions(3)[2]}
    theirs = drawn(page, request)
    steps, pixels = expected(pipe, request)
    assert len(theirs["steps"]) == len(steps)
    for step, latents in zip(steps, theirs["steps"]):
        torch.testing.assert_close(torch.tensor(latents), step.latents.flatten(), atol=1e-3, rtol=1e-3)
    assert np.abs(np.array(theirs["pixels"]).reshape(pixels.shape) - pixels.astype(int)).max() <= 1


def test_picture_of_twenty_steps(page, pipe):
    """The page's first example, at its default settings, is the picture of `minisd` to one of 8 bits."""
    request = REQUEST | {"prompt": run(page, "return minisd.facts.examples[0]"), "steps": 20, "seed": 0}
    theirs = drawn(page, request, "x0")
    steps, pixels = expected(pipe, request)
    for step, x0 in zip(steps, theirs["steps"]):
        torch.testing.assert_close(torch.tensor(x0), step.pred_original_sample.flatten(), atol=2e-3, rtol=2e-3)
    assert np.abs(np.array(theirs["pixels"]).reshape(pixels.shape) - pixels.astype(int)).max() <= 1


def test_fast_mode_draws_the_picture_of_the_command_line(page, tmp_path, monkeypatch):
    """The switch draws what `minisd --fast` draws, to one of 8 bits; the PNG says how; switching back restores the settings."""
    script = """
        const { app } = minisd, fast = document.getElementById("fast");
        const pause = () => new Promise((resolve) => setTimeout(resolve, 50));
        const settings = () => [app.state.sampler, app.state.steps, app.state.scale];
        await app.draw({ prompt: args[0], seed: "5", steps: 2, scale: 2, sampler: "pndm", width: 128, height: 128, negative: "" });
        fast.click();
        while (!app.run.pixels) await pause();
        const { run } = app, quick = settings();
        fast.click();
        const slow = [...settings(), fast.checked];
        app.run.stop();
        return [Array.from(run.pixels), minisd.settingsOf(run, minisd.facts), quick, slow];
    """
    prompt = captions(3)[2]
    pixels, settings, quick, slow = run(page, script, prompt)
    assert quick == ["lcm", 4, 1] and slow == ["pndm", 20, 2, False]
    monkeypatch.chdir(tmp_path)
    assert main([prompt, "--fast", "--seed", "5", "--noise", "cuda"]) == 0
    (image,) = map(Image.open, tmp_path.glob("*.png"))
    theirs = np.asarray(image.convert("RGBA")).astype(int)
    assert np.abs(np.array(pixels).reshape(theirs.shape) - theirs).max() <= 1
    recorded = json.loads(image.text["minisd"])
    assert settings.items() <= recorded.items()


def test_attention(page, pipe):
    """The maps of the page are those of `attention_maps`; a muted word mutes there and here."""
    request = REQUEST | {"prompt": captions(3)[2], "steps": 2, "sampler": "ddim"}
    muted = [1.0] * 77
    muted[2] = 0.0
    script = """
        const engine = await minisd.ready, maps = [];
        const request = { ...args[0], muted: Float32Array.from(args[1]) };
        await engine.draw(request, (step) => maps.push(step.attention.map((map) => Array.from(map.data))));
        return maps;
    """
    for factors in ([1.0] * 77, muted):
        theirs = run(page, script, request, factors)
        with attention_maps(pipe, torch.tensor([[1.0] * 77, factors])) as maps:
            expected(pipe, request)
        for step in range(2):
            for level, found in zip(maps.levels, theirs[step]):
                ours = maps.rows(step, level)[-1]
                torch.testing.assert_close(torch.tensor(found).view(ours.shape), ours, atol=1e-4, rtol=1e-3)


PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)  # 128 × 128
MASK = np.zeros((128, 128), dtype=np.uint8)
MASK[20:90, 40:] = 255


def started(page, request: dict, strength: float, mask: bool) -> dict:
    """What the page computes from a picture, whose pixels it gets as a canvas has them."""
    script = """
        const engine = await minisd.ready, [request, rgba, strength, mask] = args, steps = [];
        const start = { image: minisd.toImage(Uint8ClampedArray.from(rgba)), strength, mask: mask && Float32Array.from(mask) };
        const { image } = await engine.draw({ ...request, start }, (step) => steps.push(Array.from(step.next)));
        return { steps, pixels: Array.from(minisd.toPixels(image)) };
    """
    rgba = np.asarray(Image.fromarray(PICTURE).convert("RGBA")).ravel().tolist()
    latent_mask = (MASK[::8, ::8] / 255).ravel().tolist() if mask else None
    return run(page, script, request, rgba, strength, latent_mask)


@pytest.mark.parametrize("mask", [False, True], ids=["img2img", "inpainting"])
@pytest.mark.parametrize("change", [{}, {"sampler": "ddim"}, {"sampler": "lms"}, {"sampler": "lcm"}, {"scale": 1.0}], ids=str)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_from_a_picture(page, pipe, strength, change, mask):
    """Latents at every step and pixels are those of minisd.editing."""
    request = REQUEST | change | {"prompt": captions(3)[2], "steps": 6}
    theirs = started(page, request, strength, mask)
    fit(pipe, request["sampler"])
    kind = StableDiffusionInpaintPipeline if mask else StableDiffusionImg2ImgPipeline
    ours = kind.from_pipe(pipe)
    ours.set_progress_bar_config(disable=True)
    pictures = [Image.fromarray(PICTURE), *([Image.fromarray(MASK)] if mask else [])]
    settings = {"num_inference_steps": 6, "guidance_scale": request["scale"], "generator": CudaNoise(request["seed"])}
    steps = list(ours.denoise(request["prompt"], *pictures, strength, **settings))
    assert len(theirs["steps"]) == len(steps)
    for step, latents in zip(steps, theirs["steps"]):
        torch.testing.assert_close(torch.tensor(latents), step.latents.flatten(), atol=1e-3, rtol=1e-3)
    pixels = np.asarray(to_pil(ours.decode(steps[-1].latents))[0].convert("RGBA")).astype(int)
    assert np.abs(np.array(theirs["pixels"]).reshape(pixels.shape) - pixels).max() <= 1


def test_painted_noise(page, pipe):
    """Where the noise is painted, the loop starts from the next seed's."""
    request = REQUEST | {"prompt": captions(3)[2]}
    script = """
        const engine = await minisd.ready, steps = [];
        const start = { noise: Float32Array.from(args[1]) };
        await engine.draw({ ...args[0], start }, (step) => steps.push(Array.from(step.next)));
        return steps;
    """
    noise = torch.where(torch.tensor(MASK[::8, ::8] > 0), CudaNoise(4).randn((1, 4, 16, 16)), CudaNoise(3).randn((1, 4, 16, 16)))
    fit(pipe, "pndm")
    ours = list(pipe.denoise(request["prompt"], 128, 128, 5, 2.0, latents=noise))
    for step, latents in zip(ours, run(page, script, request, noise.flatten().tolist()), strict=True):
        torch.testing.assert_close(torch.tensor(latents), step.latents.flatten(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("tool", ["color", "veil", "noise"])
def test_reader_paints_and_draws_from_there(page, tool):
    """With a mouse and with keys: a stroke becomes colour, a mask, or other noise, and the loop starts from it."""
    from selenium.webdriver import ActionChains, Keys

    script = """
        const { app } = minisd;
        [app.run, app.index] = [null, 0];
        app.set({ prompt: minisd.facts.examples[0], seed: "0", steps: 3, width: 128, height: 128, screen: "paint" });
        document.querySelector("#stage-paint [data-tool=color]").click();
        document.querySelector(`#stage-paint [data-tool=${args[0]}]`).click();
        [...document.querySelectorAll("#stage-paint button")].find((button) => button.textContent === "Undo all painting").click();
    """
    run(page, script, tool)
    board = page.find_element("css selector", "#stage-paint .board")
    page.execute_script("arguments[0].scrollIntoView({ block: 'center' })", board)
    ActionChains(page).move_to_element_with_offset(board, -30, 0).click_and_hold().move_by_offset(40, 20).release().perform()
    board.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.SPACE)
    script = """
        const { app } = minisd, pause = () => new Promise((resolve) => setTimeout(resolve, 50));
        [...document.querySelectorAll("#stage-paint button")].find((button) => button.textContent === "Draw from here").click();
        while (!app.run?.pixels && document.getElementById("error").hidden) await pause();
        const { start } = app.run.request, noise = new minisd.CudaNoise("0").randn(1024);
        return {
          masked: start.mask?.reduce((a, b) => a + b), strength: start.strength, steps: app.run.steps.length,
          painted: start.image && start.image.some((value, i) => value !== start.image[0] && i < 128 * 128),
          changed: start.noise?.filter((value, i) => value !== noise[i]).length,
        };
    """
    found = run(page, script, tool)
    if tool == "color":
        assert found["painted"] and found["masked"] is None and found["strength"] == 0.6 and found["steps"] == 2
    elif tool == "veil":
        assert 0 < found["masked"] < 200 and found["strength"] == 1 and found["steps"] == 4
    else:
        assert 0 < found["changed"] < 800 and found["steps"] == 4


def test_tour(page):
    """Every stop has an answer to predict, hides it until then, and shows what to do; in the end the settings are as before."""
    script = """
        const { app } = minisd, tour = document.getElementById("tour"), seen = [];
        const settings = { prompt: minisd.facts.examples[0], seed: "0", steps: 4, scale: 2, width: 128, height: 128, negative: "" };
        await app.draw(settings);
        app.set({ sampler: "lcm", scale: 1, steps: 4 });
        const prior = { ...app.state, screen: "" };
        document.getElementById("tour-start").click();
        const text = (selector) => tour.querySelector(selector).textContent;
        const note = tour.textContent.includes("Fast mode is off"), slow = app.state.sampler;
        await app.draw(settings);
        for (;;) {
          const button = (text) => [...tour.querySelectorAll("button")].find((one) => one.textContent === text);
          const values = () => [...document.querySelectorAll("input")].map((input) => input.value);
          const sheet = document.querySelector("#stage-paint .sheet");
          const bytes = () => sheet.getContext("2d").getImageData(0, 0, sheet.width, sheet.height).data.join();
          const state = () => JSON.stringify([app.state, app.index, bytes(), ...values()]);
          const covered = document.querySelectorAll(".covered").length;
          const before = state(), choices = [...tour.querySelectorAll(".choice")];
          choices.forEach((choice) => choice.click());
          const right = choices.findIndex((choice) => choice.classList.contains("right"));
          choices[right].click();
          const open = !document.querySelector(".covered");
          button("Show me").click();
          const press = document.querySelector(".beckon")?.textContent ?? "";
          seen.push({
            title: text("h2"), answer: text(".answer"), told: text(".task"), shown: before !== state(), covered, open, press,
            strength: document.getElementById("strength").value,
          });
          if (button("Finish")) break;
          button("Next").click();
        }
        tour.querySelector("h2").dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
        const after = { ...app.state, screen: "" }, error = document.getElementById("error").textContent;
        app.set(settings);
        return { seen, note, slow, prior, after, hidden: tour.hidden, error };
    """
    found = run(page, script)
    stops = found["seen"]
    assert len(stops) == 9 and len({stop["title"] for stop in stops}) == 9
    assert all(stop["answer"].startswith("Yes. ") and stop["shown"] and stop["open"] for stop in stops)
    assert [i for i, stop in enumerate(stops, 1) if stop["covered"]] == [2, 4, 6]
    assert [i for i, stop in enumerate(stops, 1) if stop["press"]] == [5, 7, 8, 9]
    assert all(f"Now press “{stop['press']}”." in stop["told"] for stop in stops if stop["press"])
    assert stops[-1]["strength"] == "0.6"  # as the question says
    assert found["hidden"] and found["error"] == ""
    assert found["note"] and found["slow"] == "pndm" and found["after"]["prompt"] == found["prior"]["prompt"]
    assert found["after"]["seed"] == found["prior"]["seed"]


def test_tour_puts_back_what_it_changed_and_nothing_else(page):
    """Fast mode, words and seed are back when the tour closes; a seed that the reader has typed meanwhile stays."""
    script = """
        const { app } = minisd, tour = document.getElementById("tour"), start = document.getElementById("tour-start");
        const press = (text) => [...tour.querySelectorAll("button")].find((one) => one.textContent === text).click();
        const close = () => tour.querySelector("header button").click();
        const settings = { prompt: "a dog", seed: "4", steps: 4, scale: 1, sampler: "lcm" };
        app.set(settings);
        const values = () => Object.keys(settings).map((name) => app.state[name]), seen = [];
        start.click();
        app.run?.stop();
        for (const title of ["What is noise?", "How does", "What does the model read?"]) {
          while (!tour.querySelector("h2").textContent.startsWith(title)) press(title === "What is noise?" ? "Back" : "Next");
          tour.querySelector(".choice").click();
          press("Show me");
        }
        seen.push(values());
        close();
        seen.push(values());
        start.click();
        app.run?.stop();
        press("Show me");
        app.set({ seed: "77" });
        close();
        seen.push(values());
        app.set({ prompt: minisd.facts.examples[0], seed: "0", steps: 4, scale: 2, sampler: "pndm", screen: "words" });
        return seen;
    """
    touring, closed, again = run(page, script)
    assert touring == ["a dog wizard", "5", 20, 2, "pndm"]
    assert closed == ["a dog", "4", 4, 1, "lcm"] and again == ["a dog", "77", 4, 1, "lcm"]


def test_picture_of_other_settings_is_told_from_the_one_asked_for(page):
    """It fades, and a sentence says what to press; muting a word of a run that went on with other words keeps these words."""
    script = """
        const { app } = minisd, pause = () => new Promise((resolve) => setTimeout(resolve, 50));
        const find = (id) => document.getElementById(id), seen = [], prompts = minisd.facts.examples;
        const look = () => seen.push([find("result").classList.contains("stale"), find("status").textContent]);
        await app.draw({ prompt: prompts[0], seed: "0", steps: 2, scale: 2, sampler: "pndm", width: 128, height: 128 });
        look();
        app.set({ prompt: prompts[1] });
        look();
        app.set({ prompt: prompts[0] });
        app.select(1);
        await app.fork({ prompt: prompts[2] });
        look();
        app.set({ screen: "attention" });
        const slider = document.getElementById("weight");
        slider.value = 0;
        slider.dispatchEvent(new Event("input"));
        document.getElementById("draw-attention").click();
        while (app.run.drawing) await pause();
        return [seen, app.run.request.prompt === prompts[2], app.run.before, document.getElementById("error").textContent];
    """
    (fresh, stale, forked), words, before, error = run(page, script)
    assert not fresh[0] and fresh[1].startswith("Drawn in ")
    assert stale[0] and stale[1].startswith("The settings have changed. Press Draw.")
    assert not forked[0] and "from step 2 on with “" in forked[1]
    assert (words, before, error) == (True, None, "")


def test_guidance_without_guidance_says_how_to_get_it(page):
    script = """
        const { app } = minisd, note = () => document.querySelector("#stage-guidance > .lead").textContent;
        const settings = { steps: 1, scale: 1, width: 128, height: 128, screen: "guidance" }, seen = [];
        for (const sampler of ["ddim", "lcm"]) {
          await app.draw({ ...settings, sampler });
          seen.push(note());
        }
        app.set({ sampler: "pndm", scale: 2, steps: 4 });
        return seen;
    """
    plain, fast = run(page, script)
    assert "guidance scale above 1" in plain and "Turn Fast mode off" in fast


GPU = """
    const { engine, run } = minisd.app, text = (id) => document.getElementById(id).textContent;
    const [device, error] = ["device", "error"].map(text);
    return { onGpu: engine.onGpu, device, error, steps: run?.steps.length, drawn: Boolean(run?.pixels) };
"""


def test_without_a_gpu_only_the_small_runtime_starts(page):
    found = run(page, GPU)
    assert not found["onGpu"] and found["device"] == "Networks run on one CPU core. "
    assert run(page, "return document.getElementById('gpu_runtime')") is None  # its text was freed


@pytest.fixture(scope="module")
def gpu_page(page):
    with browser(gpu=True) as driver:
        if not run(driver, "return Boolean(await navigator.gpu?.requestAdapter())"):
            pytest.skip("this Chromium has no WebGPU, not even in software")
        yield driver


@pytest.mark.slow
def test_a_gpu_draws_the_same_and_is_replaced_when_it_is_lost(gpu_page, pipe):
    """The UNet on WebGPU agrees, also in fast mode; when the GPU's process dies, the CPU goes on and a sentence says so."""
    for change in ({"sampler": "lcm", "steps": 2, "scale": 1.0}, {"steps": 3}):
        request = REQUEST | {"prompt": captions(3)[2], "height": 64, "width": 64} | change
        theirs, (steps, pixels) = drawn(gpu_page, request), expected(pipe, request)
        for step, latents in zip(steps, theirs["steps"], strict=True):
            torch.testing.assert_close(torch.tensor(latents), step.latents.flatten(), atol=2e-3, rtol=2e-3)
        assert np.abs(np.array(theirs["pixels"]).reshape(pixels.shape) - pixels.astype(int)).max() <= 2
    found = run(gpu_page, GPU)
    assert found["onGpu"] and found["device"].startswith("The UNet runs on the GPU") and found["error"] == ""

    gpu_page.execute_script("minisd.later = minisd.app.draw({ steps: 6, width: 64, height: 64 })")
    run(gpu_page, "while (!minisd.app.run.steps.length) await new Promise((resolve) => setTimeout(resolve, 20))")
    gpu_page.execute_cdp_cmd("Browser.crashGpuProcess", {})
    run(gpu_page, "await minisd.later")
    found = run(gpu_page, GPU)
    assert found["error"].startswith("The GPU stopped working") and found["device"].startswith("Networks run on one CPU core.")
    assert (found["onGpu"], found["steps"], found["drawn"]) == (False, 7, True)


@pytest.mark.slow
def test_a_gpu_that_computes_other_numbers_is_not_used(gpu_page):
    """Another expected value stands for it, because no GPU here is wrong."""
    script = """
        const parse = JSON.parse;
        JSON.parse = (text) => {
          const value = parse(text);
          if (value?.networks) value.networks.expected.plain[7] += 0.01;
          return value;
        };
    """
    gpu_page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    gpu_page.refresh()
    run(gpu_page, "await minisd.ready")
    found = run(gpu_page, GPU)
    assert not found["onGpu"] and "computes other numbers" in found["device"]
    run(gpu_page, "await minisd.app.draw({ steps: 2, width: 64, height: 64 })")
    assert run(gpu_page, GPU)["drawn"]


def test_replay(page):
    """A run that goes on from recorded steps is the run that never stopped."""
    script = """
        const engine = await minisd.ready, steps = [];
        const { image } = await engine.draw(args[0], (step) => steps.push(step));
        const again = await engine.draw(args[0], undefined, steps.slice(0, 3));
        return Math.max(...image.map((value, i) => Math.abs(value - again.image[i])));
    """
    assert run(page, script, REQUEST | {"prompt": captions(1)[0]}) < 1e-5


def test_nothing_is_fetched_and_nothing_failed(page):
    resources = run(page, "return performance.getEntriesByType('resource').map((entry) => entry.name.slice(0, 40))")
    assert [name for name in resources if not name.startswith(("data:", "blob:"))] == []
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_reader_mutes_compares_and_draws_nine_seeds(page):
    """With the page's own buttons: a muted word changes the picture, B is compared with A, every seed has its own picture."""
    script = """
        const { app } = minisd, pause = () => new Promise((resolve) => setTimeout(resolve, 50));
        const until = async (test) => { while (!test() && document.getElementById("error").hidden) await pause(); };
        const buttons = (name) => [...document.querySelectorAll(`#stage-${name} button`)];
        const press = (name, text) => buttons(name).find((one) => one.textContent === text).click();
        const bytes = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.join();
        const settings = { prompt: minisd.facts.examples[0], seed: "0", steps: 2, scale: 2, width: 128, height: 128 };
        await app.draw({ ...settings, screen: "attention" });
        const plain = app.run;
        app.select(1);
        press("attention", "Mute");
        press("attention", "Draw with this attention");
        await until(() => app.run !== plain && app.run.pixels);
        const silent = app.run.request.muted.filter((factor) => factor === 0).length;
        const muted = [silent, app.run.pixels.join() !== plain.pixels.join()];

        await app.draw({ screen: "knobs" });
        for (const [name, value] of [["scale", 2], ["steps", 3], ["prompt", app.state.prompt]]) {
          document.getElementById(`b-${name}`).value = value;
          document.getElementById(`b-${name}`).dispatchEvent(new Event("change"));
        }
        press("knobs", "Draw both");
        const caption = () => document.querySelector("#stage-knobs figure:nth-child(3) figcaption").textContent;
        await until(() => caption().includes("255"));
        const compared = [document.querySelector("#stage-knobs figure:nth-child(2) figcaption").textContent, caption()];

        app.set({ screen: "seeds" });
        await pause();
        press("seeds", "Draw nine seeds");
        await until(() => document.querySelector("#stage-seeds button").textContent === "Draw nine seeds");
        const cells = [...document.querySelectorAll("#stage-seeds .grid canvas")];
        return [muted, compared, new Set(cells.map(bytes)).size, cells[0].getAttribute("aria-label"),
          bytes(cells[0]) === bytes(document.getElementById("result")), document.getElementById("error").textContent];
    """
    muted, compared, pictures, label, same, error = run(page, script)
    assert muted == [1, True]
    assert "steps 3" in compared[0] and compared[1].startswith("B − A: ")
    assert (pictures, label, same, error) == (9, "The picture of seed 0", True, "")


def test_page_is_one_file_of_30_megabytes(page):
    assert PAGE.stat().st_size <= 30e6
    facts = json.loads(run(page, "return JSON.stringify(minisd.facts.config)"))
    assert facts["length"] == 77


def test_words_that_the_model_has_never_seen_are_named(page):
    script = """
        minisd.app.set({ prompt: "a Qwertzu " + minisd.facts.words[0], screen: "words" });
        return [...document.querySelectorAll("#stage-words .hints p")].map((hint) => hint.textContent);
    """
    (hint,) = run(page, script)
    assert "qwertzu" in hint


def test_address_holds_the_state(page):
    script = """
        const { app } = minisd;
        app.set({ prompt: "two & three = 5?", seed: "7", steps: 30, scale: 3.5, screen: "knobs", width: 160 });
        const hash = location.hash, kept = { ...app.state };
        app.set({ prompt: "x", seed: "1", steps: 4, scale: 1, screen: "words", width: 128 });
        location.hash = hash;
        await new Promise((resolve) => setTimeout(resolve, 300));
        return [kept, app.state];
    """
    kept, again = run(page, script)
    assert kept == again and kept["steps"] == 30 and kept["prompt"] == "two & three = 5?"


def test_png_holds_its_settings(page):
    script = """
        const canvas = document.createElement("canvas");
        const request = { ...minisd.app.state, prompt: "naïve 猫", negative: "red", seed: "5" };
        const settings = minisd.settingsOf({ request }, minisd.facts);
        const bytes = new Uint8Array(await (await minisd.pngWithSettings(canvas, settings)).arrayBuffer());
        return Array.from(bytes);
    """
    file = bytes(run(page, script))
    Image.open(io.BytesIO(file)).verify()  # the checksums
    image = Image.open(io.BytesIO(file))
    settings = json.loads(image.text["minisd"])
    assert (settings["prompt"], settings["negative_prompt"], settings["seed"]) == ("naïve 猫", "red", 5)
    assert image.text["parameters"].startswith("naïve 猫\nNegative prompt: red\nSteps: ")


def test_reader_draws_stops_and_goes_on_from_a_step(page):
    """With the page's own buttons: draw, stop, draw again, fork at step 3; the steps before it stay."""
    script = """
        const { app } = minisd, pause = () => new Promise((resolve) => setTimeout(resolve, 50));
        const until = async (test) => { while (!test()) await pause(); };
        const draw = document.getElementById("draw"), form = document.getElementById("request");
        const prompts = minisd.facts.examples;
        app.set({ prompt: prompts[0], seed: "0", steps: 6, scale: 2, width: 128, height: 128, screen: "loop" });
        form.requestSubmit();
        await until(() => app.run?.steps.length >= 2);
        form.requestSubmit();
        await until(() => !app.run.drawing);
        const stopped = app.run.steps.length, told = document.getElementById("status").textContent, half = app.run;
        await until(() => half.newest && half.newest === half.frame("x0", stopped - 1)); // the guess so far is shown
        form.requestSubmit();
        await until(() => app.run.pixels && !app.run.drawing);
        const first = app.run;
        app.select(3);
        document.getElementById("fork-words").value = prompts[1];
        document.querySelector("#stage-loop form").requestSubmit();
        await until(() => app.run !== first && app.run.pixels && !app.run.drawing);
        const same = (a, b) => a.every((value, i) => value === b[i]);
        const kept = [2, 3, 4].map((i) => same(first.steps[i].next, app.run.steps[i].next));
        return [stopped, first.steps.length, kept, draw.textContent, told];
    """
    stopped, steps, same, label, told = run(page, script)
    assert stopped < steps == 7
    assert told == f"Stopped after step {stopped} of 7. This is the guess so far."
    assert same == [True, False, False] and label == "Draw"


SCREENS = ["words", "noise", "loop", "guidance", "attention", "knobs", "seeds", "paint"]
LOOK = """
    const { app } = minisd, find = (selector) => document.querySelector(selector);
    const stage = find(`#stage-${args[0]}`), notes = find(`#screen-${args[0]} .notes`);
    const pause = () => new Promise((resolve) => setTimeout(resolve, 50));
    if (!args[1]) [app.run, app.index] = [null, 0];
    else if (app.run?.request.steps !== 4) await app.draw({ prompt: minisd.facts.examples[0], steps: 4, scale: 2, width: 128 });
    app.set({ screen: args[0] });
    app.select(2);
    const canvases = () => [...stage.querySelectorAll("canvas:not([aria-hidden])")].filter((canvas) => canvas.offsetParent);
    const blank = () => canvases().filter((canvas) => !canvas.dataset.painted).map((canvas) => canvas.getAttribute("aria-label"));
    for (let i = 0; i < 600 && blank().length; i++) await pause();
    return {
      canvases: canvases().length, blank: blank(), wide: document.documentElement.scrollWidth > innerWidth,
      words: notes.querySelector("p").textContent, formulas: notes.querySelectorAll(".math math").length,
      shapes: [...notes.querySelectorAll("td")].map((cell) => cell.textContent),
      links: [...notes.querySelectorAll("a")].map((link) => link.getAttribute("href")),
    };
"""


@pytest.mark.parametrize("drawn", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("screen", SCREENS)
def test_screen_shows_something_and_says_what(page, screen, drawn):
    """No canvas is empty, nothing scrolls sideways; there are a sentence, a formula, shapes, and links that lead somewhere."""
    seen = run(page, LOOK, screen, drawn)
    assert seen["canvases"] > 0 and seen["blank"] == [] and not seen["wide"]
    assert seen["words"].endswith(".") and seen["formulas"] >= 1
    assert len(seen["shapes"]) >= 2 and all(any(letter.isdigit() for letter in cell) for cell in seen["shapes"])
    prefix = run(page, "return minisd.facts.docs")
    *others, notebook = [link.removeprefix(prefix) for link in seen["links"]]
    code = [link for link in others if "#L-" in link]
    assert (ROOT / notebook).with_suffix(".ipynb").exists()
    for link in code:
        path, line = link.split(".html#L-")
        assert (ROOT / path).read_text().splitlines()[int(line) - 1].lstrip().startswith(("def ", "@", "class "))
    assert code
