"""The page in a real Chromium: what it shows, by keyboard too, and that it asks nobody but its server.

Skipped where no Chromium is installed (Debian's `chromium`); Playwright brings none of its own here.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from serve.app import Args, Model, api, load
from serve.page import KINDS
from serve.state import State
from tests.serve.asking import KEY, KEYS, client_of
from tests.serve.live import eventually, idle, serving
from tests.tiny import tiny_annotator_folder, tiny_model_folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
LONG = "def f(x):\n    return x + 1  # 🧊\n\n" * 30


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> State:
    """Two models, the second not trained to infill, and a judge that knows its corpus."""
    at = tmp_path_factory.mktemp("page")
    models = [
        Model(folder=str(tiny_model_folder(at / "infills")), name="alpha"),
        Model(folder=str(tiny_model_folder(at / "plain", infill=False, seed=1)), name="beta"),
    ]
    folder = tiny_annotator_folder(at / "annotator")
    row = {"documents": 800, "unscored": 0, "scores": [0.0, 1.0], "below": [0.0, 1.0]}
    row |= {"counts": [k * (40 - k) for k in range(40)]}
    told = {"range": [0, 1], "all": row, "languages": {"Python": row}}
    (folder / "scores.json").write_text(json.dumps(told))
    return load(Args(models=models, annotator=str(folder), threads=1))


@pytest.fixture(scope="module")
def url(two: State) -> Iterator[str]:
    with serving(api(two)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


def opened(context: BrowserContext, url: str) -> tuple[Page, list[str], list[str]]:
    """A page, what it says in the console, and all addresses it asks."""
    page, said, asked = context.new_page(), list[str](), list[str]()
    page.on("console", lambda m: said.append(m.text))
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("request", lambda r: asked.append(r.url))
    page.goto(url)
    expect(page.locator("#write-model option")).to_have_count(2)
    return page, said, asked


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page, which must not complain, nor ask anyone else."""
    context = browser.new_context()
    page, said, asked = opened(context, url)
    yield page
    assert said == []
    assert {a for a in asked if not a.startswith(f"{url}/")} == set()
    context.close()


def text_of(page: Page, tool: str = "write") -> str:
    return page.locator(f"#{tool}-text").input_value()


def cursor_at(page: Page, text: str, gap: int, tool: str = "write") -> None:
    area = page.locator(f"#{tool}-text")
    area.fill(text)
    area.evaluate("(a, gap) => a.setSelectionRange(gap, gap)", gap)


@needs_chromium
def test_an_infill_streams_in_and_tab_accepts(page: Page, two: State) -> None:
    cursor_at(page, "def f(x):\n    return \n\nprint(f(2))\n", 21)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#write-told")).to_contain_text("Tab accepts")
    ghost = page.locator("#write-sheet .ghost").text_content()
    body = {"prompt": "def f(x):\n    return ", "suffix": "\n\nprint(f(2))\n"}
    asked = body | {"temperature": 0, "max_tokens": 48, "model": "alpha"}
    expected = client_of(api(two)).post("/v1/completions", json=asked).json()["choices"][0]["text"]
    assert ghost == expected
    assert "tokens/s" in (page.locator("#write-told").text_content() or "")
    page.keyboard.press("Tab")
    expect(page.locator("#write-sheet .ghost")).to_have_count(0)
    assert text_of(page) == f"def f(x):\n    return {ghost}\n\nprint(f(2))\n".replace("\r", "\n")
    page.keyboard.press("Control+z")
    assert text_of(page) == "def f(x):\n    return \n\nprint(f(2))\n"


@needs_chromium
def test_esc_discards_and_typing_too(page: Page) -> None:
    for leave in ("Escape", "x"):
        cursor_at(page, "a = \nb = 2\n", 4)
        page.keyboard.press("Control+Enter")
        expect(page.locator("#write-sheet .ghost")).to_have_count(1)
        page.keyboard.press(leave)
        expect(page.locator("#write-sheet .ghost")).to_have_count(0)
        assert text_of(page) == ("a = \nb = 2\n" if leave == "Escape" else "a = x\nb = 2\n")
        expect(page.locator("#write-stop")).to_be_disabled()


@needs_chromium
def test_a_stop_ends_the_call_on_the_server(page: Page, two: State) -> None:
    page.locator("#write-tokens").fill("2000")
    cursor_at(page, "x", 1)
    page.keyboard.press("Control+Enter")
    page.keyboard.press("Control+.")
    expect(page.locator("#write-stop")).to_be_disabled()
    eventually(lambda: idle(two.engine("alpha")[1]))


@needs_chromium
def test_a_model_that_cannot_infill_goes_on_at_the_end(page: Page) -> None:
    page.locator("#write-model").select_option("beta")
    expect(page.locator("#write-note")).to_contain_text("beta was not trained to fill in")
    cursor_at(page, "a = 1\nb = 2\n", 3)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#write-told")).to_contain_text("Tab accepts")
    page.keyboard.press("Tab")
    assert text_of(page).startswith("a = 1\nb = 2\n")
    assert len(text_of(page)) > 12


@needs_chromium
def test_two_models_are_compared(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    assert [page.locator(f"#compare-model-{k}").input_value() for k in (0, 1)] == ["alpha", "beta"]
    page.get_by_role("button", name="Ask both").click()
    for k in (0, 1):
        expect(page.locator(f"#compare-told-{k}")).to_contain_text("tokens/s")
        assert page.locator(f"#compare-answer-{k} .new").text_content()
        assert "first after" in (page.locator(f"#compare-told-{k}").text_content() or "")


@needs_chromium
def test_a_file_is_judged_and_its_windows_shown(page: Page, two: State) -> None:
    page.get_by_role("tab", name="Judge").click()
    expect(page.locator("#judge-language option")).to_have_count(2)
    page.locator("#judge-text").fill(LONG)
    page.locator("#judge-language").select_option("Python")
    page.get_by_role("button", name="Judge", exact=True).click()
    (told,) = two.judged().score([LONG], located=True)
    expect(page.locator("#judge-score")).to_have_text(f"{told.score:.3f}")
    assert "better than" in (page.locator("#judge-place").text_content() or "")
    shown = page.locator("#judge-sheet mark").all_text_contents()
    assert shown == [LONG[start:end] for start, end in told.spans]
    expect(page.locator("#judge-windows tr")).to_have_count(3)
    expect(page.locator("#judge-sheet mark").last).not_to_be_in_viewport()
    page.get_by_role("button", name="Show window 3").click()
    expect(page.locator("#judge-sheet mark").last).to_be_in_viewport()
    expect(page.locator("#judge-read")).to_contain_text("the rest lies between its windows")
    expect(
        page.get_by_role("img", name="Histogram of the scores of 800 Python files")
    ).to_be_visible()
    page.locator("#judge-text").press("x")
    expect(page.locator("#judge-sheet mark")).to_have_count(0)


@needs_chromium
def test_everything_can_be_reached_by_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("tab", name="Write")).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Judge")).to_be_focused()
    for name in ("judge-language", "judge-file", "judge-text", "judge-ask"):
        page.keyboard.press("Tab")
        if name == "judge-file":
            continue  # Chromium's file field has a stop of its own
        expect(page.locator(f"#{name}")).to_be_focused()
        if name == "judge-text":
            page.keyboard.type("x = 1")
    page.keyboard.press("Enter")
    expect(page.locator("#judge-result")).to_be_visible()


@needs_chromium
def test_errors_are_told_in_words_until_the_next_try(browser: Browser, url: str) -> None:
    context = browser.new_context()
    page, said, _ = opened(context, url)
    page.locator("#write-temperature").fill("-1")
    page.locator("#write-ask").click()
    expect(page.get_by_role("alert")).to_contain_text("temperature is -1")
    page.locator("#write-temperature").fill("0")
    page.locator("#write-ask").click()
    expect(page.locator("#write-told")).to_contain_text("Tab accepts")
    expect(page.locator("#trouble")).to_be_hidden()
    assert len(said) == 1  # Chromium's own line of an answer that is no success
    context.close()


@needs_chromium
def test_the_key_is_asked_for_once_and_opens_all(browser: Browser, two: State) -> None:
    with serving(api(two, KEYS)) as url:
        closed = browser.new_context()
        with pytest.raises(Error, match="INVALID_AUTH_CREDENTIALS"):
            closed.new_page().goto(url)
        closed.close()
        credentials: Any = {"username": "", "password": KEY}
        context = browser.new_context(http_credentials=credentials)
        page, said, _ = opened(context, url)
        page.keyboard.press("Tab")
        page.locator("#write-ask").click()
        expect(page.locator("#write-told")).to_contain_text("Tab accepts")
        assert said == []
        context.close()


def test_no_part_of_the_page_is_open_or_may_load_from_elsewhere(two: State) -> None:
    locked = client_of(api(two, KEYS))
    client = client_of(api(two))
    for name in KINDS:
        path = "/" if name == "index.html" else f"/page/{name}"
        assert locked.get(path).headers["www-authenticate"] == "Bearer"
        asks = locked.get(path, headers={"accept": "text/html"})
        assert (asks.status_code, asks.headers["www-authenticate"][:5]) == (401, "Basic")
        assert locked.get(path, auth=("", KEY)).status_code == 200
        answer = client.get(path)
        assert answer.headers["content-type"] == KINDS[name]
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in answer.text


def test_another_sites_page_cannot_use_the_browsers_key(two: State) -> None:
    client = client_of(api(two, KEYS), "here:8000")
    for origin, status in (("http://here:8000", 200), ("http://evil.example", 401), ("null", 401)):
        answer = client.get("/v1/models", auth=("", KEY), headers={"origin": origin})
        assert answer.status_code == status, origin
    for wrong in ("Basic !!!", "Basic", "Basic Og==", "Basic /w=="):
        assert client.get("/", headers={"authorization": wrong}).status_code == 401


def test_the_parts_are_packaged() -> None:
    from serve.page import WEB

    assert {p.name for p in WEB.iterdir()} == set(KINDS)
    told = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert all(f'"*{Path(name).suffix}"' in told for name in KINDS)
