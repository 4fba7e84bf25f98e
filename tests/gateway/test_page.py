"""The files of the web page as the gateway serves them; what a browser makes of them is in test_page_browser.py."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from yarl import URL

from gateway.page import CHARTS, FOLDER, Page, read_files
from tests.gateway.kit import Teller, running

ROOT = FOLDER.parent.parent


def test_everything_that_the_page_names_is_served() -> None:
    files = read_files()
    texts = {path: file.body.decode() for path, file in files.items() if path != CHARTS}
    named = set(re.findall(r'(?:href|src)="(/page/[^"]+)"', texts["/"]))
    for path, text in texts.items():
        if path.endswith(".js"):
            named |= {f"/page/{name}" for name in re.findall(r'from "\./([a-z]+\.js)"', text)}
    assert {"/page/style.css", "/page/app.js", "/page/chart.js", "/page/trust.js"} <= named
    assert named <= set(files)
    assert set(files) - named - {CHARTS} == {"/"}
    assert any(CHARTS in text for text in texts.values())


def test_nothing_in_the_page_needs_more_than_its_policy_allows() -> None:
    for path, file in read_files().items():
        text = file.body.decode()
        if path == "/":
            assert re.findall(r"<script(?![^>]*src=)|<style|\son[a-z]+=|\sstyle=", text) == []
        elif path != CHARTS and path.endswith(".js"):
            assert (
                re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text) == []
            )


def test_the_chart_library_may_be_missing(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "web", ignore=shutil.ignore_patterns("vendor"))
    page = Page(read_files(tmp_path / "web"))
    assert not page.has_charts
    assert "/" in page.paths
    (tmp_path / "web" / "vendor").mkdir()
    (tmp_path / "web" / "vendor" / "lightweight-charts.js").write_text("export {};")
    assert Page(read_files(tmp_path / "web")).has_charts


def test_nothing_of_others_is_part_of_the_project() -> None:
    assert "/gateway/web/vendor/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    lock = json.loads((FOLDER / "package-lock.json").read_text(encoding="utf-8"))
    others = {name: package for name, package in lock["packages"].items() if name}
    assert "node_modules/lightweight-charts" in others
    for package in others.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package  # that would name a registry


@pytest.mark.servers
async def test_files_come_with_their_policy_and_are_asked_for_anew(redis_url: str, teller: Teller) -> None:
    teller.tell({("BTCUSDT", "1m"): {}})
    async with running(redis_url) as client:
        for path, media in (
            ("/", "text/html"),
            ("/page/app.js", "text/javascript"),
            ("/page/icon.svg", "image/svg+xml"),
        ):
            async with client.session.get(client.url + path) as response:
                body = await response.read()
                assert (response.status, response.content_type) == (200, media)
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Content-Encoding"] == "gzip"
                etag = response.headers["ETag"]
            async with client.session.get(client.url + path, headers={"Accept-Encoding": "identity"}) as plain:
                assert await plain.read() == body == read_files()[path].body
            async with client.session.get(client.url + path, headers={"If-None-Match": etag}) as again:
                assert (again.status, await again.read()) == (304, b"")


@pytest.mark.servers
@pytest.mark.parametrize(
    "path",
    [
        "/page/../service.py",
        "/page/%2e%2e/service.py",
        "/page/..%2fservice.py",
        "/page/..%5cservice.py",
        "/page/vendor/../../service.py",
        "/page/vendor/lightweight-charts.LICENSE",
        "/page/package.json",
        "/page/",
        "//etc/passwd",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/page/app.js%00.html",
        "/page/app.js/",
        "/web/",
        "/gateway/web/index.html",
        "/../../pyproject.toml",
        "/page/" + "../" * 20 + "etc/passwd",
    ],
)
async def test_no_path_leads_to_another_file(redis_url: str, teller: Teller, path: str) -> None:
    teller.tell({("BTCUSDT", "1m"): {}})
    async with running(redis_url) as client, client.session.get(URL(client.url + path, encoded=True)) as response:
        assert response.status == 404, await response.text()


@pytest.mark.servers
async def test_the_page_needs_no_token_and_its_data_do(redis_url: str, teller: Teller) -> None:
    teller.tell({("BTCUSDT", "1m"): {}})
    async with running(redis_url, token="very-secret") as client:
        for path, status in (("/", 200), ("/page/app.js", 200), ("/page/other.js", 401), ("/api/status", 401)):
            async with client.session.get(client.url + path) as response:
                assert response.status == status, path
