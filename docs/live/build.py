"""Build the live page: `python docs/live/build.py` writes docs/_build/live/index.html, one file that asks the network for nothing.

Inside are the package's networks as ONNX, the runtime onnxruntime-web for CPU and GPU (MIT, from npm, pinned in package.json), the
program from `program/`, and everything the page knows about the model: vocabulary, words, example prompts, shapes, source code.
"""

import argparse
import gzip
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from minisd.disk import replacing

HERE = Path(__file__).parent
OUT = HERE.parent / "_build" / "live"
MOST = 30e6  # bytes of the page
RUNTIMES = {"cpu": ("wasm", ""), "gpu": ("jspi", ".jspi")}  # of onnxruntime-web: the script's name, and the binary's ending


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=Path, default=OUT / "index.html", help="the page")
    arguments.add_argument("--docs", default="../html/", help="where the documentation is, seen from the page")
    arguments.add_argument("--page-only", action="store_true", help="keep the networks and facts of the last build")
    args = arguments.parse_args()
    started = time.perf_counter()

    packages = npm_packages()
    assets = network_assets(args.page_only)
    for device, (_, ending) in RUNTIMES.items():
        assets[f"{device}_runtime"] = packages / f"onnxruntime-web/dist/ort-wasm-simd-threaded{ending}.wasm"
    page = assemble(packages, assets, args.docs)
    data = page.encode("utf-16-le")
    if len(data) > MOST:
        sys.exit(f"the page would have {len(data) / 1e6:.1f} MB, more than {MOST / 1e6:.0f} MB")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as partial:
        partial.write_bytes(data)  # as bytes: no system may change its line ends
    print(f"{args.out}: {len(data) / 1e6:.1f} MB in {time.perf_counter() - started:.0f} s", file=sys.stderr)


def npm_packages() -> Path:
    """What package.json pins, fetched by npm once."""
    folder = OUT / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = (HERE / "package.json").read_text() + (HERE / "package-lock.json").read_text()
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != hashlib.sha256(wanted.encode()).hexdigest():
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True, stdout=sys.stderr)
        stamp.write_text(hashlib.sha256(wanted.encode()).hexdigest())
    return folder / "node_modules"


def network_assets(keep: bool) -> dict[str, Path]:
    """The networks as files, and facts.json beside them; with `keep`, those of the last build."""
    graphs = ("text_encoder", "unet", "encoder", "decoder")
    paths = {name: OUT / name for name in (*graphs, *(f"{name}_weights" for name in graphs), "lora")}
    if keep:
        return paths
    import torch
    from export import networks
    from facts import facts

    from minisd import StableDiffusionPipeline

    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained("tiny")
    about = facts(pipe)
    with torch.no_grad():
        files, about["networks"] = networks(pipe)
    for name, file in files.items():
        paths[name].write_bytes(file)
    (OUT / "facts.json").write_text(json.dumps(about, ensure_ascii=False))
    return paths


def bundle(packages: Path, entry: str) -> str:
    """A module of the program and all that it imports, as one plain script: in a file, no worker can be a module."""
    command = [packages / ".bin/esbuild", HERE / "program" / entry, "--bundle", "--format=iife", "--charset=utf8"]
    command += ["--log-level=error", "--define:import.meta.url=self.location.href"]
    for script, _ in RUNTIMES.values():
        command += [f"--alias:onnxruntime-web/{script}={packages}/onnxruntime-web/dist/ort.{script}.bundle.min.mjs"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def assemble(packages: Path, assets: dict[str, Path], docs: str) -> str:
    """Everything in one file. What is large is compressed, as text, in elements that the browser does not run.

    The file is UTF-16, in which the compressed parts take the least space. The byte order mark at its start tells every browser so,
    whatever a server says.
    """
    facts = json.loads((OUT / "facts.json").read_text())
    facts["docs"] = docs
    facts["runtime"] = json.loads((packages / "onnxruntime-web/package.json").read_text())["version"]
    blocks = {
        "facts": element("facts", "application/json", json.dumps(facts, ensure_ascii=False)),
        "worker": element("worker", "text/plain", bundle(packages, "worker.js")),
        "program": element("program", "text/javascript", bundle(packages, "page.js")),
        "assets": "\n".join(packed(name, path) for name, path in assets.items()),
        "style": f"<style>\n{(HERE / 'style.css').read_text()}</style>",
    }
    page = formulas((HERE / "index.html").read_text())
    for name, block in blocks.items():
        page = page.replace(f"<!-- {name} -->", block)
    return "\ufeff" + page


def element(name: str, kind: str, text: str) -> str:
    text = text.replace("</script", r"<\/script").replace("<!--", r"<\!--")
    return f'<script id="{name}" type="{kind}">{text}</script>'


def packed(name: str, path: Path) -> str:
    """A compressed file as a page element. Each character, from U+4000 to U+BFFF, encodes 15 bits and is valid in HTML.

    In UTF-16 this adds 7 %; base64 in UTF-8 adds 33 %. Read by `unpack` in program/engine.js.
    """
    data = gzip.compress(path.read_bytes(), 9, mtime=0)
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    rows = np.packbits(np.pad(bits, (0, -len(bits) % 15)).reshape(-1, 15), axis=1)
    text = ((rows.view(">u2") >> 1) + 0x4000).astype("<u2").tobytes().decode("utf-16-le")
    return f'<script id="{name}" type="text/plain" data-bytes="{len(data)}">{text}</script>'


def formulas(page: str) -> str:
    """`$…$` in LaTeX becomes MathML, which every browser shows without a library."""
    from math_core import LatexToMathML

    converter = LatexToMathML()
    mathml = lambda found: converter.convert_with_local_state(html.unescape(found[1]), displaystyle=False)  # noqa: E731
    return re.sub(r"\$([^$\n]+)\$", mathml, page)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
