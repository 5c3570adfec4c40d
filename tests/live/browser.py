"""A headless Chromium that opens the live page from its file, with the network shut off."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "_build" / "live" / "index.html"
PATIENCE = 600  # seconds for anything; busy machines are slow
FLAGS = ["--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND"]


def missing() -> str | None:
    """Why the page cannot be tested here, or None."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed: pip install -e '.[live]'"
    if not (chromium() and shutil.which("chromedriver")):
        return "no chromium and chromedriver: apt-get install chromium chromium-driver"
    if not shutil.which("npm"):
        return "no npm, which fetches the page's runtime"
    return None


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser(width: int = 1600, height: int = 1000, dark: bool = False, hash: str = "", gpu: bool = False) -> Iterator:
    """A driver with the page open and the networks loaded; `?wait` keeps the page from drawing by itself.

    With `gpu` the page computes the UNet on WebGPU, which Chromium computes in software (SwiftShader).
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium()
    with tempfile.TemporaryDirectory() as profile:
        graphics = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"] if gpu else ["--disable-gpu"]
        for flag in [*FLAGS, *graphics, f"--user-data-dir={profile}", f"--window-size={width},{height}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            driver.command_executor.client_config.timeout = PATIENCE + 30
            driver.set_page_load_timeout(PATIENCE)
            driver.set_script_timeout(PATIENCE)
            features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            # A window cannot be as narrow as a phone, but its content can
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            driver.get(PAGE.as_uri() + f"?wait{'&software-gpu' if gpu else ''}{hash}")
            run(driver, "await minisd.ready")
            yield driver
        finally:
            driver.quit()


def run(driver, script: str, *arguments):
    """Run the body of an async function in the page; `args` holds the arguments."""
    result = driver.execute_async_script(
        "const done = arguments[arguments.length - 1], args = [...arguments].slice(0, -1);"
        f"(async () => {{ {script} }})().then((value) => done({{ value }}), (error) => done({{ error: String(error) }}))",
        *arguments,
    )
    if "error" in result:
        raise AssertionError(result["error"])
    return result.get("value")
