"""Opens pages of `fusec report` in a headless Chromium and uses them as a person would.

    python3 tests/report/drive.py PAGE DEEP_PAGE TWO_PLANS_PAGE [--pictures DIR]

Speaks the WebDriver protocol to chromedriver, with nothing but the standard library. Ends with status 1
at the first thing that is not as it should be, and says what.
"""

import argparse
import base64
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"Escape": "\ue00c", "Enter": "\ue007", "Right": "\ue014"}
# Seconds in which a page has to be there and drawn, and a click answered.
QUICK = 3.0


class Browser:
    def __init__(self, dark=False):
        driver = shutil.which("chromedriver")
        if driver is None:
            sys.exit("chromedriver is not installed: apt-get install chromium chromium-driver")
        self.driver = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = ""
        for said in self.driver.stdout:
            found = re.search(r"started successfully on port (\d+)", said)
            if found:
                break
        else:
            sys.exit(f"chromedriver does not start: {said}")
        self.base = f"http://127.0.0.1:{found[1]}"
        options = {
            # Nobody's pages but ours are opened; in containers there is no sandbox to be had.
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1600,1150"],
        }
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        if dark:
            scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
            self.of("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": scheme})

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            sys.exit(f"{method} {path}: {error.read().decode()[:600]}")

    def of(self, method, path, body=None):
        return self.call(method, f"/session/{self.session}{path}", body)

    def open(self, page):
        began = time.monotonic()
        self.of("POST", "/url", {"url": pathlib.Path(page).resolve().as_uri()})
        return time.monotonic() - began

    def js(self, script, *arguments):
        return self.of("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector):
        return self.of("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.of("POST", f"/element/{self.find(selector)}/click", {})

    def press(self, *keys):
        actions = []
        for key in keys:
            value = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self.of("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.of("GET", "/screenshot")))

    def said(self):
        return [entry["message"] for entry in self.of("POST", "/se/log", {"type": "browser"})]

    def close(self):
        self.of("DELETE", "")
        self.driver.terminate()
        self.driver.wait()


def check(what, fine, got=None):
    if not fine:
        sys.exit(f"{what}: {got!r}" if got is not None else what)


def selected(browser):
    return browser.js("return document.querySelector('g.k.selected')?.dataset.kernel ?? null")


def text(browser, selector):
    return browser.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector)


def silent(browser, where):
    said = browser.said()
    check(f"{where}: the console is not empty", not said, said)
    outside = browser.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    check(f"{where}: the page asks for something outside of itself", not outside, outside)


def looked_at(browser, page):
    browser.open(page)
    kernels = browser.js("return document.querySelectorAll('g.k').length")
    check("no kernel is drawn", kernels > 0)
    for section in ("summary", "run", "timeline", "roofline", "memory", "kernels"):
        check(f"{section} is empty", text(browser, f"#{section}") != "")
    check("a kernel is selected before anybody asks", selected(browser) is None)

    # A click shows everything that is known of a kernel.
    browser.click("g.k text.name")
    first = selected(browser)
    check("a click selects nothing", first is not None)
    source = text(browser, "#detail pre.source")
    check("a click does not show the source", "__global__" in source and first in text(browser, "#detail"), source[:200])
    detail = text(browser, "#detail")
    for part in ("predicted", "limited by", "schedule", "launch", "What is in it", "What is next to it"):
        check(f"nothing is said of: {part}", part in detail, detail)
    check("neither registers nor why there are none", "registers" in detail or "compiled" in detail, detail)

    # Keys.
    browser.press("Escape")
    check("Escape does not close", selected(browser) is None and text(browser, "#detail") == "")
    browser.press("j")
    one = selected(browser)
    check("j does not select the first kernel", one is not None)
    if kernels > 1:
        browser.press("j")
        check("j does not go on", selected(browser) not in (None, one))
        browser.press("k")
        check("k does not go back", selected(browser) == one)
    browser.press("Escape")
    browser.js("document.querySelector('g.k').focus()")
    browser.press("Enter")
    check("Enter does not open the kernel in focus", selected(browser) is not None)
    browser.press("Escape", "/")
    check("/ does not go to the search", browser.js("return document.activeElement.id") == "search")
    op = browser.js("return document.querySelector('g.op').dataset.op")
    browser.press(*op)
    check("nothing is found", browser.js("return document.querySelectorAll('g.op.match').length") > 0, op)
    browser.press("Enter")
    check("Enter does not select what is found", selected(browser) is not None)
    browser.press("Escape")
    box = "return document.querySelector('.graph svg').getAttribute('viewBox')"
    before = browser.js(box)
    browser.press("+")
    check("+ does not zoom", browser.js(box) != before)
    browser.press("0")
    theme = "return document.documentElement.dataset.theme"
    before = browser.js(theme)
    browser.press("t")
    check("t does not change the theme", browser.js(theme) != before)
    browser.press("t", "?")
    check("? does not show the keys", browser.js("return document.getElementById('help').open"))
    browser.press("Escape")
    shown = "return document.querySelector('#run button[aria-pressed=true]').innerText"
    before = browser.js(shown)
    browser.press("]")
    if browser.js("return document.querySelectorAll('#run button').length") > 1:
        check("] does not show the next part", browser.js(shown) != before)
    tabs = browser.js("return document.querySelectorAll('#regimes button').length")
    browser.press("1")
    check("1 does not show the first length of run", tabs > 0 and browser.js("return state.regime") == 0)

    # Every part of every length of run, every kernel of it.
    visited = browser.js("""
      let visited = 0;
      for (let r = 0; r < data.plans[0].regimes.length; r += 1) {
        for (let p = 0; p < data.plans[0].regimes[r].parts.length; p += 1) {
          choose(r, p);
          for (let k = 0; k < partOf(0).kernels.length; k += 1) { select(0, k); visited += 1; }
        }
      }
      return visited;
    """)
    check("no kernel can be visited", visited >= kernels, visited)
    text_of_page = browser.js("return document.body.innerText")
    for broken in ("[object ", "undefined", "NaN"):
        check(f"the page says {broken}", broken not in text_of_page)
    broken = browser.js("return [...document.querySelectorAll('svg *')].filter((e) => [...e.attributes].some((a) => /NaN|undefined|Infinity/.test(a.value))).length")
    check("something is drawn nowhere", broken == 0, broken)
    silent(browser, page)

    pdf = base64.b64decode(browser.of("POST", "/print", {"orientation": "landscape"}))
    check("the page does not print", pdf.startswith(b"%PDF") and len(pdf) > 10_000, len(pdf))


def deep(browser, page):
    took = browser.open(page)
    check("a deep model is slow to open", took < QUICK, took)
    nodes = browser.js("return document.querySelectorAll('*').length")
    check("equal layers are not folded", nodes < 6000, nodes)
    began = time.monotonic()
    browser.click("g.k text.name")
    check("a click on a deep model does nothing", selected(browser) is not None)
    took = time.monotonic() - began
    check("a click on a deep model is slow", took < QUICK, took)
    silent(browser, page)


def two(browser, page):
    browser.open(page)
    panels = browser.js("return document.querySelectorAll('.graph').length")
    check("two plans are not side by side", panels == 2, panels)
    check("what changed is not said", text(browser, "#changes") != "")
    browser.click(".graph:nth-child(2) g.k text.name")
    check("the second plan cannot be looked at", browser.js("return state.plan") == 1)
    silent(browser, page)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pages", nargs=3)
    parser.add_argument("--pictures", type=pathlib.Path)
    args = parser.parse_args()
    one, layers, both = args.pages
    browser = Browser()
    looked_at(browser, one)
    deep(browser, layers)
    two(browser, both)
    if args.pictures:
        for page, name in ((one, "light"), (layers, "deep"), (both, "two")):
            browser.open(page)
            browser.picture(args.pictures / f"{name}.png")
        browser.open(one)
        browser.press("j", "j")
        browser.picture(args.pictures / "kernel.png")
    browser.close()
    dark = Browser(dark=True)
    dark.open(one)
    check("a dark desktop gets a light page", dark.js("return document.documentElement.dataset.theme") == "dark")
    silent(dark, one)
    if args.pictures:
        dark.picture(args.pictures / "dark.png")
    dark.close()


main()
