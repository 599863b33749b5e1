"""A headless Chromium for pages that are made here; it reaches nothing but this computer."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["chromium"]

_ARGUMENTS = """
--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update
--disable-sync --window-size=1300,1000 --disable-dev-shm-usage --autoplay-policy=no-user-gesture-required
""".split()
_NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND"


@contextmanager
def chromium(profile: pathlib.Path) -> Iterator[Any]:
    """Give a driver; skips where there is no Chromium, chromedriver or selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="a page is looked at with selenium")
    browser, driver_path = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if browser is None or driver_path is None:
        pytest.skip("a page is looked at with chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (*_ARGUMENTS, _NOWHERE, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        driver.set_page_load_timeout(60)
        driver.set_script_timeout(30)
        yield driver
    finally:
        driver.quit()
