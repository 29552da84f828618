"""Bags whole, split, damaged and foreign, and what is said about those that cannot be used."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode, Writer
from rosbags.typesys import Stores, get_typestore

from benchmarks.common.bag_file import BagFile, Storage
from robot_nodes.bag_reader import READABLE, Bag, BagError, BagTopic, find_bags

STORAGES: list[Storage] = ["sqlite3", "mcap"]
ENDINGS = {"sqlite3": "db3", "mcap": "mcap"}


def write(path: Path, storage: Storage, first: int = 0, messages: int = 500) -> Path:
    with BagFile(path, storage) as bag:
        for number in range(first, first + messages):
            bag.joint_state("/joint_states", 1000 * number, number, ["a"], [float(number)])
            bag.foreign("/welder", 1000 * number + 1)
    return path / f"{path.name}.{ENDINGS[storage]}"


def positions(path: Path, topic: str = "/joint_states") -> list[float]:
    with Bag(path) as bag:
        return [message.position[0] for _, _, message in bag.messages({topic})]


def error(path: Path) -> str:
    with pytest.raises(BagError) as raised:
        positions(path)
    return str(raised.value)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_folder_and_its_file_are_the_same_bag(storage: Storage, tmp_path: Path) -> None:
    file = write(tmp_path / "bag", storage)
    with Bag(file.parent) as folder, Bag(file) as alone:
        assert folder.topics == alone.topics
        assert folder.topics["/welder"] == BagTopic("lab_msgs/Weld", 500)
        assert folder.fingerprint == alone.fingerprint
        assert {content for _, _, content in folder.messages({"/welder"})} == {None}
        assert list(folder.messages({"/nothing"})) == []
    assert positions(file) == positions(file.parent) == list(range(500))


@pytest.mark.parametrize("storage", STORAGES)
def test_a_recording_that_was_split_is_one_bag(storage: Storage, tmp_path: Path) -> None:
    parts = [write(tmp_path / f"part{i}", storage, first=100 * i, messages=100) for i in range(3)]
    whole = tmp_path / "whole"
    whole.mkdir()
    for part in parts:
        shutil.copy(part, whole)
    text = (tmp_path / "part0" / "metadata.yaml").read_text()
    names = "".join(f"\n  - {part.name}" for part in parts)
    text, times = re.subn(r"relative_file_paths:\n  - \S+", f"relative_file_paths:{names}", text)
    assert times == 1
    (whole / "metadata.yaml").write_text(text)
    assert find_bags([whole]) == [whole]
    assert positions(whole) == list(range(300))

    (whole / parts[1].name).unlink()
    assert "put them back, or take metadata.yaml away" in error(whole)
    (whole / "metadata.yaml").unlink()
    assert find_bags([whole]) == [whole / parts[0].name, whole / parts[2].name]


def test_bags_of_humble_and_before_have_no_definitions_of_their_messages(tmp_path: Path) -> None:
    file = write(tmp_path / "bag", "sqlite3", messages=3)
    with closing(sqlite3.connect(file)) as database:
        database.execute("DROP TABLE message_definitions")
        database.execute("UPDATE schema SET schema_version = 3")
        database.commit()
    assert positions(file) == positions(file.parent) == [0, 1, 2]


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_bags_are_read(mode: CompressionMode, tmp_path: Path) -> None:
    with BagFile(tmp_path / "bag", "sqlite3", mode) as bag:
        bag.joint_state("/joint_states", 1, 1, ["a"], [7.0])
    assert positions(tmp_path / "bag") == [7.0]


@pytest.mark.parametrize("storage", STORAGES)
def test_a_recording_that_was_cut_off_is_told_with_what_saves_it(storage: Storage, tmp_path: Path) -> None:
    file = write(tmp_path / "bag", storage)
    content = file.read_bytes()
    tool = {"mcap": "mcap recover bag.mcap -o whole.mcap", "sqlite3": "sqlite3 bag.db3 .recover"}[storage]
    for size in (0, 5, 100, len(content) // 2, len(content) * 9 // 10):
        file.write_bytes(content[:size])
        for path in (file, file.parent):
            text = error(path)
            assert "damaged or no bag: " in text, (size, text)
            assert tool in text, (size, text)


def test_a_bag_that_is_damaged_in_the_middle_is_read_up_to_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with BagFile(tmp_path / "bag", "mcap", CompressionMode.STORAGE) as bag:
        for number in range(60):  # in chunks of a megabyte
            noise = rng.standard_normal(10_000)
            noise[0] = number
            bag.array("/joint_states", 1000 * number, noise)
    file = tmp_path / "bag" / "bag.mcap"
    content = bytearray(file.read_bytes())
    content[len(content) * 3 // 4 : len(content) * 3 // 4 + 50] = bytes(50)
    file.write_bytes(content)
    read: list[float] = []
    with Bag(file) as bag, pytest.raises(BagError, match=r"damaged or no bag: .*mcap recover"):
        for _, _, message in bag.messages({"/joint_states"}):
            read.append(message.data[0])
    assert 0 < len(read) < 60
    assert read == list(range(len(read)))


def test_what_is_no_bag_is_called_so(tmp_path: Path) -> None:
    assert error(tmp_path / "none") == "no such file or folder"
    assert error(tmp_path) == "no bag: a folder without .db3 or .mcap files, and without bags in it"
    (tmp_path / "notes.txt").write_text("hello")
    assert error(tmp_path / "notes.txt").startswith("no bag: give a folder")
    (tmp_path / "old.bag").write_text("#ROSBAG V2.0")
    assert "rosbags-convert" in error(tmp_path / "old.bag")
    (tmp_path / "x.mcap").write_bytes(b"\x89PNG" * 100)
    assert "damaged or no bag: File magic is invalid" in error(tmp_path / "x.mcap")
    (tmp_path / "metadata.yaml").write_text("a: b: c")
    assert "damaged or no bag: " in error(tmp_path)


def test_messages_that_a_killed_recorder_left_beside_the_bag_are_told(tmp_path: Path) -> None:
    file = write(tmp_path / "bag", "sqlite3", messages=3)
    file.with_name("bag.db3-wal").write_bytes(b"x")
    with Bag(file) as bag:
        assert "bag.db3-wal holds messages" in bag.warning


def test_folders_of_bags_are_opened_up_and_each_bag_comes_once(tmp_path: Path) -> None:
    files = [write(tmp_path / f"day{i}", "mcap", messages=2) for i in range(2)]
    loose = Path(shutil.copy(files[0], tmp_path / "loose.mcap"))
    (tmp_path / "notes").mkdir()
    assert find_bags([tmp_path]) == [tmp_path / "day0", tmp_path / "day1", loose]
    assert find_bags([files[0], files[0].parent, files[0]]) == [files[0], files[0].parent]
    assert find_bags([tmp_path / "notes"]) == [tmp_path / "notes"]


def test_the_messages_that_are_decoded_are_the_same_in_all_distributions() -> None:
    """So the bag's own definitions need not be asked; a new distribution that changes one fails here."""
    stores = [get_typestore(store) for store in Stores if store.value.startswith("ros2")]
    assert len(stores) > 5
    for name in READABLE:
        kind = name.replace("/", "/msg/")
        assert len({store.hash_rihs01(kind) for store in stores}) == 1


def test_a_bag_in_a_newer_format_is_told_without_a_cure(tmp_path: Path) -> None:
    file = write(tmp_path / "bag", "mcap", messages=2)
    metadata = file.with_name("metadata.yaml")
    metadata.write_text(metadata.read_text().replace("version: 9", "version: 99"))
    assert (
        error(tmp_path / "bag") == "damaged or no bag: Rosbag2 version 99 not supported; please report issue"
    )
    assert Writer.VERSION_LATEST == 9
