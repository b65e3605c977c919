"""What every page has to be, seen in a browser: quiet, offline, no wider than its window, legible, for keys too."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.browser import DESK_PX, PHONE_PX, Browser

_CHECKS = Path(__file__).with_suffix(".js").read_text().replace("const checks", "globalThis.checks")
MOST_TABS = 150


def check_page(browser: Browser, page: Path | str, ready: str = "true") -> None:
    """Open a page at a desk and on a phone, light and dark, and on paper.

    Parameters
    ----------
    page : Path or str
        A file, or an address.
    ready : str
        Expression that is true once the page has what it shows.
    """
    address = page if isinstance(page, str) else page.resolve().as_uri()
    own = urlsplit(address)
    for size in (DESK_PX, PHONE_PX):
        for dark in (False, True):
            browser.look_like(size, dark=dark)
            browser.open(address, ready=ready)
            where = f"{address}, {'phone' if size == PHONE_PX else 'desk'}, {'dark' if dark else 'light'}"
            assert not browser.complaints, f"{where}: {browser.complaints}"
            asked = [r for r in browser.requests if urlsplit(r).scheme not in ("data", "blob")]
            foreign = [r for r in asked if (urlsplit(r).scheme, urlsplit(r).netloc) != (own.scheme, own.netloc)]
            assert not foreign, f"{where}: {foreign}"
            judge(browser, where)
    reach_everything(browser)
    browser.look_like(DESK_PX, medium="print")
    browser.open(address, ready=ready)
    assert browser.run("document.body.innerText.trim().length") > 0
    browser.look_like(DESK_PX)


def judge(browser: Browser, where: str) -> None:
    """Look at the page as it is now."""
    browser.run(_CHECKS)
    assert not (wide := browser.run("checks.wide()")), f"{where}: wider than the window: {wide}"
    assert not (pale := browser.run("checks.pale()")), f"{where}: too pale: {pale}"
    assert not (nameless := browser.run("checks.nameless()")), f"{where}: nobody says what these are: {nameless}"


def reach_everything(browser: Browser) -> None:
    """Press Tab until all that can be used had the focus."""
    count = browser.run("checks.number()")
    reached: set[str] = set()
    for _ in range(min(count + 5, MOST_TABS)):
        browser.press("Tab")
        here = browser.run("checks.here()")
        if here is not None:
            reached.add(here)
    missing = {str(i) for i in range(min(count, MOST_TABS - 5))} - reached
    listed = [browser.run(f"document.querySelector('[data-usable=\"{i}\"]')?.outerHTML.slice(0, 90)") for i in missing]
    assert not missing, f"keys do not reach {listed}"
