"""Postgres without Postgres: files, names, verdicts, lineage, switching directories."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ha_manager import adoption, cluster, controldata, counting, divergence, halves, seeding, settings
from ha_manager.cluster import Hints, Paths, PostgresConfig, find
from ha_manager.database import Database
from ha_manager.keeper import Keeper, read_note
from ha_manager.lineage import Book, Lineage
from ha_manager.observation import (
    Identity,
    Observation,
    StandbyRow,
    Upstream,
    epoch_of,
    is_plain,
    lsn,
    lsn_text,
    slot_name,
    standby_name,
)
from ha_manager.postgres import Changes
from ha_manager.postgres_child import Launch
from ha_manager.receiving import here_at
from ha_manager.rejoin import (
    Control,
    Mine,
    Question,
    Verdict,
    Way,
    answered,
    common_end,
    in_place,
    judge,
    parse_history,
    why_not_rewind,
)
from ha_manager.replication import upstream_conninfo, verifies
from ha_manager.settings import Dynamic, Setting
from ha_manager.sql import _clean, conninfo, forget_environment
from runtime.clock import boottime
from runtime.errors import ConfigError, HaError, ReplicationError

# --- names and positions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, number", [("0/0", 0), ("0/3000108", 0x3000108), ("16/B374D848", 0x16B374D848), ("", -1), (None, -1)]
)
def test_positions(text: str | None, number: int) -> None:
    assert lsn(text) == number
    if text:
        assert lsn_text(number) == text


def test_names_fit_into_postgres() -> None:
    assert standby_name("vs-28", 7) == "ha_vs-28_7"
    assert epoch_of("ha_vs-28_7") == 7 and epoch_of("ha_a_b_12") == 12
    assert epoch_of("walreceiver") == -1 and epoch_of("") == -1
    long = standby_name("n" * 100, 123456)
    assert len(long) == 63 and epoch_of(long) == 123456
    assert slot_name("VS-28.example") == "ha_vs_28_example"


def test_caught_up_counts_what_is_flushed() -> None:
    row = StandbyRow("ha_b_1", "streaming", "async", 1000, 900, 900, 0.0)
    seen = Observation(lsn=1000, standbys=(replace(row, state="catchup"), row))
    assert seen.caught_up("ha_b_1", within=100) and not seen.caught_up("ha_b_1", within=99)
    assert not seen.caught_up("ha_b_2")
    assert not replace(seen, standbys=(replace(row, flushed=-1),)).caught_up("ha_b_1", within=10**9)


# --- configuration files ------------------------------------------------------------------------------------------------------


def read(files: dict[str, str], main: str = "/c/main.conf") -> dict[str, Setting]:
    def list_folder(path: Path) -> list[str]:
        return [Path(name).name for name in files if Path(name).parent == path]

    return settings.read(Path(main), lambda path: files.get(str(path)), list_folder)


def test_settings_are_read_as_postgres_reads_them() -> None:
    found = read(
        {
            "/c/main.conf": "# c\nPort = 5433 # x\nname 'it''s'\nescaped = 'a\\'b'\ninclude_dir 'conf.d'\nlast=1\n"
            "include_if_exists 'no'\n",
            "/c/conf.d/b.conf": "port = 5434\ntwice = 1\ntwice = '2'",
            "/c/conf.d/a.conf": "port = 1",
            "/c/conf.d/.hidden.conf": "port = 2",
            "/c/conf.d/x.txt": "port = 3",
        }
    )
    assert {name: setting.value for name, setting in found.items()} == {
        "port": "5434", "name": "it's", "escaped": "a'b", "last": "1", "twice": "2",
    }  # fmt: skip
    assert (found["port"].file, found["port"].line) == (Path("/c/conf.d/b.conf"), 1)


@pytest.mark.parametrize(
    "text, words",
    [
        ("a = 1\nnonsense line here", "/c/main.conf:2: not a setting"),
        ("include 'gone.conf'", "/c/gone.conf: there is no such file"),
        ("include 'main.conf'", "include each other without end"),
    ],
)
def test_files_that_postgres_would_refuse(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read({"/c/main.conf": text})


@pytest.mark.parametrize(
    "admin, auto, words",
    [
        ("synchronous_commit = off", "", "acknowledged that the passive server does not hold"),
        ("synchronous_commit = 'local'", "", "passive server does not hold"),
        ("", "synchronous_commit = 'off'", "passive server does not hold"),
        ("fsync = no", "", "power cut would destroy"),
        ("full_page_writes = false", "", "tear pages"),
        ("recovery_target_time = '2026-01-01'", "", "decides when a standby stops replaying"),
        ("promote_trigger_file = '/x'", "", "ha_manager decides that"),
        ("", "synchronous_standby_names = 'x'", "overrides what ha_manager must set"),
        ("", "primary_conninfo = 'host=x'", "overrides"),
        ("", "wal_log_hints = 'off'", "overrides"),
    ],
)
def test_settings_that_break_a_promise_are_refused_with_their_place(admin: str, auto: str, words: str) -> None:
    found = read({"/c/main.conf": f"port = 1\n{admin}\n"})
    overriding = read({"/d/auto.conf": f"# by ALTER SYSTEM\n{auto}\n"}, "/d/auto.conf")
    with pytest.raises(ConfigError, match=words) as wrong:
        settings.refuse(found, overriding)
    assert wrong.value.line == 2 and wrong.value.remedy
    assert str(wrong.value).startswith("/c/main.conf:2:" if admin else "/d/auto.conf:2:")


def test_ordinary_settings_are_not_refused() -> None:
    found = read({"/c/main.conf": "synchronous_commit = remote_apply\nfsync = on\nrecovery_target_time = ''\n"})
    settings.refuse(found, {"work_mem": Setting("1GB", Path("/d"), 1)})
    tls = {"ssl": Setting("on", Path("/d"), 2)}
    assert settings.warnings(found, tls) == []
    assert settings.warnings(found | tls, {"ssl": Setting("off", Path("/d"), 1)})[0].startswith("ssl is off: ")
    noted = settings.warnings(
        read({"/c/main.conf": "synchronous_standby_names = '*'\nsynchronous_commit = remote_write\n"}), tls
    )
    assert len(noted) == 2 and noted[1].startswith("/c/main.conf:1: synchronous_standby_names is ignored")


def test_what_we_add_never_shrinks_what_is_there() -> None:
    control = make_control(floors={"max_connections": 300, "max_worker_processes": 4})
    admin = read(
        {"/c/main.conf": "wal_level = logical\nmax_connections = 200\nmax_wal_senders = 30\nmax_slot_wal_keep_size = 1GB\n"}
    )
    values = settings.decide(admin, control, 4096, 5432)
    assert values["wal_level"] == "logical"
    assert (values["max_connections"], values["max_wal_senders"], values["max_worker_processes"]) == ("300", "30", "8")
    assert values["superuser_reserved_connections"] == "5"
    assert "max_slot_wal_keep_size" not in values and values["wal_keep_size"] == "256MB"
    plain = settings.decide({}, None, 0, 5433)
    assert "recovery_init_sync_method" not in settings.decide({}, None, 0, 5433, 13)
    assert settings.decide({}, None, 0, 5433, 14)["recovery_init_sync_method"] == "syncfs"
    assert plain["wal_level"] == "replica" and plain["port"] == "5433" and "max_slot_wal_keep_size" not in plain
    with pytest.raises(ConfigError, match="max_connections must be a whole number"):
        settings.decide(read({"/c/main.conf": "max_connections = many"}), None, 0, 1)


def test_a_standby_must_have_what_its_active_had_also_by_alter_system() -> None:
    auto = read({"/d/auto.conf": "# x\nmax_connections = 200\n"}, "/d/auto.conf")
    assert settings.less(auto, {"max_connections": 200, "max_wal_senders": 10}) == {}
    assert settings.less(auto, {"max_connections": 300}) == {"max_connections": auto["max_connections"]}
    assert settings.less(read({"/d/auto.conf": "max_connections = many"}, "/d/auto.conf"), {"max_connections": 300}) == {}


def test_the_role_file_comes_back_as_it_was_written() -> None:
    written = Dynamic(
        names='"ha_it\'s_1"',
        conninfo="host='1.2.3.4' password file='a\\\\b'",
        slot="ha_x",
        hurry=True,
        read_only=True,
        lineage="2=1/a",
    )
    assert Dynamic.parse(read({"/c/main.conf": written.text()})) == written
    assert Dynamic.parse({}) == Dynamic()


def test_our_lines_come_before_the_administrators(tmp_path: Path) -> None:
    admin = tmp_path / "pg_hba.conf"
    admin.write_text("local all all trust\n")
    lines = adoption.hba_text(admin, ("10.0.0.2", "fd00::2"), "postgres", 15, False).splitlines()
    assert lines[1] == "local all postgres peer map=ha_manager"
    assert "host replication ha_replication 10.0.0.2/32 scram-sha-256" in lines
    assert "host postgres ha_replication 10.0.0.2/32 scram-sha-256" in lines
    assert "host replication ha_replication fd00::2/128 scram-sha-256" in lines
    assert lines.index("host all ha_replication all reject") < lines.index("local all all trust")
    encrypted = adoption.hba_text(admin, ("10.0.0.2",), "postgres", 15, True).splitlines()
    assert "hostssl replication ha_replication 10.0.0.2/32 scram-sha-256" in encrypted
    assert [line for line in encrypted if line.startswith("host ")] == [
        "host replication ha_replication all reject", "host all ha_replication all reject",
    ]  # fmt: skip
    assert adoption.hba_text(admin, (), "postgres", 16, True).splitlines()[-1] == f'include "{admin}"'
    admin.write_text("\nlocal @dbs all trust\n")
    with pytest.raises(ConfigError, match="relative") as wrong:
        adoption.hba_text(admin, (), "postgres", 15, True)
    assert wrong.value.line == 2
    admin.write_bytes(b"local all b\xf6se trust\n")
    assert adoption.hba_text(admin, (), "postgres", 15, True).encode(errors="surrogateescape").endswith(admin.read_bytes())
    admin.unlink()
    admin.mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        adoption.hba_text(admin, (), "postgres", 15, True)


@pytest.mark.parametrize("tls", [True, False, None])
def test_only_an_active_that_said_so_is_reached_without_tls(tls: bool | None) -> None:
    info = upstream_conninfo(Upstream("b", 3, "fd00::2", 5433, tls), "ha_a_3", Path("/s/pgpass"))
    assert is_plain(info) is (tls is False)
    assert ("sslmode='require' channel_binding='require'" in info) is (tls is not False)
    assert "host='fd00::2' port='5433'" in info and "prefer" not in info
    assert is_plain("user=x sslmode=disable port=1") and not is_plain("")


@pytest.mark.parametrize(
    "text, mode", [("auto\n", "auto"), ("# x\n\n manual # y\n", "manual"), ("", "auto"), ("disabled", "disabled")]
)
def test_start_conf(text: str, mode: str) -> None:
    assert adoption.start_mode(text) == mode


def _debian(tmp_path: Path) -> PostgresConfig:
    """A cluster in Debian's layout, all of root's."""
    folder = tmp_path / "etc/postgresql/15/main"
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere/data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "postgresql.conf").write_text(f"data_directory = '{tmp_path}/link/data'\nport = 5433\n")
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    return replace(
        find(Hints(bin_dir=str(bin_dir), user="root"), tmp_path), state_dir=tmp_path / "state", run_dir=tmp_path / "run"
    )


def test_autostart_is_taken_and_given_back_whatever_happens_in_between(tmp_path: Path) -> None:
    config = _debian(tmp_path)
    assert config.start_conf is not None
    config.start_conf.write_text("# mine\nmanual\n")
    for _ in range(2):  # again, as after a crash at any line
        adoption.take_autostart(config)
        assert adoption.start_mode(config.start_conf.read_text()) == "disabled" and not adoption.may_start(config)
    config.start_conf.write_text("auto # edited while HA is on\n")
    adoption.take_autostart(config)
    assert not adoption.may_start(config)
    adoption.give_autostart_back(config)
    assert config.start_conf.read_text() == "auto # edited while HA is on\n" and adoption.may_start(config)
    adoption.give_autostart_back(config)
    assert config.start_conf.read_text() == "auto # edited while HA is on\n"
    # what was kept is gone: better started than never again
    adoption.take_autostart(config)
    Paths(config.state_dir).autostart.unlink()
    adoption.give_autostart_back(config)
    assert config.start_conf.read_text() == "auto\n"
    # its owner wants it so
    config.start_conf.write_text("disabled # by me\n")
    adoption.take_autostart(config)
    adoption.give_autostart_back(config)
    assert config.start_conf.read_text() == "disabled # by me\n" and not adoption.may_start(config)


def test_a_cluster_is_found_by_any_of_its_names(tmp_path: Path) -> None:
    config = _debian(tmp_path)
    assert (config.name, config.port, config.data_dir) == ("main", 5433, tmp_path / "elsewhere/data")
    base = Hints(bin_dir=str(config.bin_dir), user="root")
    for hints in (
        replace(base, config_file=str(config.config_file)),
        replace(base, data_dir=str(tmp_path / "link/data")),
        replace(base, cluster="15/main"),
    ):
        found = find(hints, tmp_path)
        assert (found.start_conf, found.data_dir, found.config_file) == (config.start_conf, config.data_dir, config.config_file)
    other = tmp_path / "plain"
    other.mkdir()
    (other / "PG_VERSION").write_text("17\n")
    (other / "postgresql.conf").write_text("unix_socket_directories = '@abstract, /run/x'\n")
    found = find(replace(base, data_dir=str(other)), tmp_path)
    assert (found.start_conf, found.version, found.socket_dir) == (None, 17, Path("/run/x"))


@pytest.mark.parametrize(
    "line, words",
    [("port = many", "port is no number"), ("unix_socket_directories = ''", "names no folder"),
     ("unix_socket_directories = '@x'", "names no folder")],
)  # fmt: skip
def test_a_cluster_that_can_t_be_reached_is_refused(tmp_path: Path, line: str, words: str) -> None:
    config = _debian(tmp_path)
    config.config_file.write_text(f"# x\n{line}\n")
    with pytest.raises(ConfigError, match=words) as wrong:
        find(Hints(bin_dir=str(config.bin_dir)), tmp_path)
    assert wrong.value.line == 2 and wrong.value.remedy


def test_a_folder_of_further_settings_may_hold_folders(tmp_path: Path) -> None:
    (tmp_path / "conf.d" / "b.conf").mkdir(parents=True)
    (tmp_path / "conf.d" / "a.conf").write_text("port = 5440\n")
    (tmp_path / "postgresql.conf").write_text("port = 1\ninclude_dir = 'conf.d'\n")
    assert cluster.read_settings(tmp_path / "postgresql.conf")["port"].value == "5440"


def test_what_a_shell_says_to_postgres_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOSTADDR", "10.0.0.9")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "read-only")
    forget_environment()
    assert not [name for name in os.environ if name.startswith("PG")]


def test_conninfo_is_quoted() -> None:
    assert conninfo(host="a b", application_name="it's\\") == r"host='a b' application_name='it\'s\\'"


SOCKET = 'connection to server on socket "/run/.s.PGSQL.5432" failed: '
ELSEWHERE = 'connection to server at "10.0.0.2", port 5432 failed: FATAL:  no'


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"{SOCKET}FATAL:  the database system is starting up\n", "the database system is starting up"),
        (f"{SOCKET}No such file or directory\n", f"{SOCKET}No such file or directory"),
        (ELSEWHERE, ELSEWHERE),
    ],
)
def test_an_alarm_has_the_servers_words_and_the_path_where_it_tells_something(said: str, told: str) -> None:
    assert _clean(said.encode()) == told


# --- verdicts -----------------------------------------------------------------------------------------------------------------


def make_control(**changes: object) -> Control:
    control = Control(system_identifier="s", state="shut down", checkpoint=500, redo=400, timeline=1)
    return replace(control, **changes)  # type: ignore[arg-type]


ACTIVE = Identity("s", 2, ((1, 1000),), {2: "5/b"}, lsn=2000)
CASES: list[tuple[str, Mine, Identity, Verdict | Question | Way]] = [
    ("no data", Mine(None), ACTIVE, Way.COPY),
    ("another cluster", Mine(make_control(system_identifier="x")), ACTIVE, Way.FOREIGN),
    ("a copy never started", Mine(make_control(timeline=2, state="in production"), fresh_copy=True), ACTIVE, Way.START),
    ("stopped cleanly before the fork", Mine(make_control(checkpoint=880)), ACTIVE, Way.START),
    ("stopped cleanly at the fork: the record lies beyond", Mine(make_control(checkpoint=1000)), ACTIVE, Way.DIVERGED),
    ("stopped cleanly beyond", Mine(make_control(checkpoint=1500)), ACTIVE, Way.DIVERGED),
    ("crashed: ask the log", Mine(make_control(state="in production")), ACTIVE, Question(1, 1000)),
    ("crashed, checkpoint beyond", Mine(make_control(state="in production", checkpoint=1200)), ACTIVE, Way.DIVERGED),
    ("a standby on the old timeline", Mine(make_control(state="shut down in recovery")), ACTIVE, Question(1, 1000)),
    (
        "a standby that replayed beyond the fork",
        Mine(make_control(state="in archive recovery", min_recovery=1100, min_recovery_timeline=1)),
        ACTIVE,
        Way.DIVERGED,
    ),
    (
        "a standby on the same timeline",
        Mine(make_control(state="shut down in recovery", timeline=2)),
        ACTIVE,
        Question(2, 2000),
    ),
    ("written to on the same timeline", Mine(make_control(state="in production", timeline=2)), ACTIVE, Way.DIVERGED),
    ("written to, then stopped, on the same timeline", Mine(make_control(timeline=2)), ACTIVE, Way.DIVERGED),
    ("a newer timeline than the active's", Mine(make_control(timeline=3), ((1, 1000), (2, 1500))), ACTIVE, Way.DIVERGED),
    (
        "the same number, opened by another",
        Mine(make_control(state="shut down in recovery", timeline=2), ((1, 1000),), {2: "5/a"}),
        ACTIVE,
        Way.DIVERGED,
    ),
    (
        "the same number, opened by the same",
        Mine(make_control(state="shut down in recovery", timeline=2), ((1, 1000),), {2: "5/b"}),
        ACTIVE,
        Question(2, 2000),
    ),
    (
        "an older common number, opened by another",
        Mine(make_control(checkpoint=100, timeline=2), ((1, 50),), {2: "4/a"}),
        Identity("s", 3, ((1, 60), (2, 900)), {2: "4/b", 3: "5/b"}, lsn=1),
        Way.DIVERGED,
    ),
    (
        "minimum recovery on a newer timeline counts",
        Mine(make_control(state="in archive recovery", min_recovery=1500, min_recovery_timeline=2)),
        ACTIVE,
        Question(2, 2000),
    ),
]


@pytest.mark.parametrize("mine, active, expected", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_may_it_follow(mine: Mine, active: Identity, expected: Verdict | Question | Way) -> None:
    found = judge(mine, active)
    if isinstance(expected, Way):
        assert isinstance(found, Verdict), found
        assert found.way is expected, found.because
        assert found.because
    else:
        assert found == expected


def test_what_the_log_says_decides() -> None:
    question = Question(1, 0x3000000)
    assert answered(question, False).way is Way.START
    beyond = answered(question, True, "a record at 0/3000028")
    assert (beyond.way, beyond.fork) == (Way.DIVERGED, 0x3000000)
    assert "0/3000000 on timeline 1" in beyond.because and beyond.because.endswith("a record at 0/3000028")


REWINDS: list[tuple[str, Control, Verdict, str]] = [
    ("left at a known fork", make_control(hints_logged=True), Verdict(Way.DIVERGED, "", 1000, 1), ""),
    ("not diverged", make_control(hints_logged=True), Verdict(Way.FOREIGN, "", 1000, 1), "not a database that diverged"),
    ("fork unknown", make_control(hints_logged=True), Verdict(Way.DIVERGED, "", -1, 1), "is not known"),
    ("twins", make_control(hints_logged=True), Verdict(Way.DIVERGED, "", 900, 1, twins=True), "takes for the same"),
    (
        "one number",
        make_control(hints_logged=True, timeline=2),
        Verdict(Way.DIVERGED, "", 1, 2),
        "both servers opened a timeline 2",
    ),
    ("no hints", make_control(), Verdict(Way.DIVERGED, "", 1000, 1), "nobody knows which pages changed"),
]


@pytest.mark.parametrize("control, verdict, words", [case[1:] for case in REWINDS], ids=[case[0] for case in REWINDS])
def test_may_it_be_rewound(control: Control, verdict: Verdict, words: str) -> None:
    found = why_not_rewind(control, verdict, ACTIVE)
    assert (found == "") if not words else (words in found)


FORKED = Verdict(Way.DIVERGED, "", 1000, 1)
#: size of the database, log of the active, log here beyond the fork; then what differs from an ordinary rejoin
PLACES: list[tuple[str, tuple[int, int, int], dict[str, object], str]] = [
    ("much log", (1500, 400, 100), {}, "copied"),
    ("much log, and the disk doesn't hold both", (1500, 400, 100), {"roomy": False}, "compare"),
    ("little log, over a slow link", (1501, 400, 100), {"link": lambda: 49.0}, "compare"),
    ("little log, over a link that can't be measured", (1501, 400, 100), {"link": lambda: 0.0}, "compare"),
    ("little log, over a fast link", (4000, 400, 100), {"link": lambda: 50.0}, "copied"),
    ("little log still", (4000, 400, 100), {"roomy": False}, "compare"),
    ("very little log", (4001, 400, 100), {}, "rewind"),
    ("very little log, over a fast link", (4001, 400, 100), {"link": lambda: 9999.0}, "rewind"),
    ("pg_rewind can't, over a fast link", (4000, 400, 100), {"cannot": "twins", "link": lambda: 9999.0}, "copied"),
    ("its size is not known", (0, 400, 100), {}, "rewind"),
    ("pg_rewind can't", (10**6, 400, 100), {"cannot": "twins"}, "compare"),
    ("as few bytes as possible", (1500, 400, 100), {"quickest": False}, "rewind"),
    ("as few bytes as possible, and pg_rewind can't", (1500, 400, 100), {"quickest": False, "cannot": "twins"}, "copied"),
    ("a part of the log was not kept", (1500, 400, 100), {"gap": True}, "copied"),
    ("no fork is known", (1500, 400, 100), {"verdict": replace(FORKED, fork=-1), "cannot": "unknown"}, "copied"),
    ("damaged", (1500, 400, 100), {"verdict": replace(FORKED, damaged=True)}, "copied"),
    ("another cluster", (1500, 400, 100), {"verdict": replace(FORKED, way=Way.FOREIGN), "cannot": "foreign"}, "copied"),
]


def _unasked() -> float:
    raise AssertionError("the link is measured, and doesn't decide")


@pytest.mark.parametrize("sizes, other, expected", [case[1:] for case in PLACES], ids=[case[0] for case in PLACES])
def test_how_a_diverged_database_comes_back(sizes: tuple[int, int, int], other: dict[str, Any], expected: str) -> None:
    size, wal, beyond = sizes
    usual: dict[str, Any] = {"verdict": FORKED, "cannot": "", "link": _unasked, "quickest": True, "roomy": True, "gap": False}
    way, because = in_place(active=replace(ACTIVE, size=size, wal=wal), beyond=beyond, **usual | other)
    assert (way or "copied") == expected
    assert (way is None) == bool(because)


def test_two_promotions_of_one_number_are_twins() -> None:
    found = judge(Mine(make_control(timeline=2), ((1, 1000),), {2: "5/a"}), ACTIVE)
    assert isinstance(found, Verdict) and found.twins


@pytest.mark.parametrize(
    "ours, theirs, timeline, before, fork",
    [
        ((), (), 1, None, -1),
        (((1, 10),), ((1, 10), (2, 20)), 3, None, 10),
        (((1, 10),), ((1, 7),), 2, None, 7),
        (((1, 10), (2, 30)), ((1, 10), (2, 20)), 3, None, 20),
        (((1, 10), (2, 30)), ((1, 10),), 2, None, 30),
        (((1, 10), (2, 30)), ((1, 10), (2, 20)), 3, 2, 10),
    ],
)
def test_common_past(
    ours: tuple[tuple[int, int], ...], theirs: tuple[tuple[int, int], ...], timeline: int, before: int | None, fork: int
) -> None:
    assert common_end(ours, theirs, timeline, before) == fork


def test_history_files() -> None:
    text = "# comment\n1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tx y\n"
    assert parse_history(text) == ((1, 0x3000148), (2, 0x5000000))
    with pytest.raises((ValueError, IndexError)):
        parse_history("nonsense")


# --- control data -------------------------------------------------------------------------------------------------------------

CONTROLDATA = """pg_control version number:            1300
Database system identifier:           7642011472967116994
Database cluster state:               shut down
Latest checkpoint location:           0/1500718
Latest checkpoint's REDO location:    0/1500718
Latest checkpoint's REDO WAL file:    000000010000000000000001
Latest checkpoint's TimeLineID:       1
Latest checkpoint's PrevTimeLineID:   1
Minimum recovery ending location:     0/0
Min recovery ending loc's timeline:   0
Backup start location:                0/0
max_connections setting:              100
max_prepared_xacts setting:           0
Bytes per WAL segment:                16777216
"""


def test_control_data() -> None:
    control = controldata.parse(CONTROLDATA)
    assert control.clean_primary and control.was_primary and control.last_timeline == 1
    assert control.floors == {"max_connections": 100, "max_prepared_transactions": 0}
    assert controldata.shutdown_lsn(control) == 0x1500718 + 120
    assert controldata.shutdown_lsn(replace(control, state="in production")) == -1
    with pytest.raises(KeyError):
        controldata.parse("something else: 1")


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("script", ["kill -9 $$", "sleep 60"], ids=["killed", "stopped"])
def test_a_tool_that_is_killed_says_nothing_of_the_database(tmp_path: Path, script: str) -> None:
    """Neither that it is damaged, for which it would be replaced, nor that its log ends where the active's history left it."""
    data, tools = tmp_path / "data", tmp_path / "bin"
    (data / "global").mkdir(parents=True)
    (data / "global" / "pg_control").touch()
    for name in ("pg_controldata", "pg_waldump"):
        program(tools, name, script)
    assert controldata.read(tools, data, 0.2) is None
    with pytest.raises(ReplicationError, match="can't be looked at"):
        controldata.read(tools, data, 0.2, surely=True)
    (data / "pg_wal").mkdir()
    (data / "pg_wal" / controldata.segment_name(2, 1 << 24, 64)).write_bytes(b"\x10" * 64)
    with pytest.raises(ReplicationError, match="can't be read"):
        controldata.first_record(tools, data, 2, 1 << 24, 0.2)
    program(tools, "pg_controldata", "echo damaged >&2; exit 1")
    assert controldata.read(tools, data, 5.0, surely=True) is None


def test_a_count_that_is_killed_is_no_count(tmp_path: Path) -> None:
    folder = tmp_path / "7-20260101T000000"
    folder.mkdir()
    divergence.write(folder, divergence.Kept(folder.name, fork="0/3000000", timeline=2, counted=False))
    program(tmp_path / "bin", "pg_waldump", "kill -9 $$")
    with pytest.raises(HaError, match="killed by signal 9"):
        counting.count(folder, tmp_path / "bin")
    kept = divergence.report(folder)
    assert kept is not None and not kept.counted


@pytest.mark.parametrize(
    "start, end",
    [
        (0x3000028, 0x30000A0),
        # The record crosses into the next page, or into the next segment with its longer header.
        (0x3001FD0, 0x3001FD0 + 24 + 120),
        (0x3FFFFD0, 0x3FFFFD0 + 40 + 120),
    ],
)
def test_end_of_a_shutdown_checkpoint(start: int, end: int) -> None:
    assert controldata.shutdown_lsn(make_control(checkpoint=start)) == end


def test_names_of_segments() -> None:
    assert controldata.segment_name(2, 0x3000108, 1 << 24) == "000000020000000000000003"
    assert controldata.segment_name(2, 0x103000000, 1 << 24) == "000000020000000100000003"
    assert controldata.segment_name(10, 0x3000108, 1 << 20) == "0000000A0000000000000030"


# --- lineage ------------------------------------------------------------------------------------------------------------------


def test_a_promotion_is_known_before_and_after_it_happened() -> None:
    begun = Lineage(promotions={2: "1/a"}).promotion_begins(5, "b", 2, counter=70)
    assert begun.must_compare and begun.known(3) == {2: "1/a", 3: "5/b"} and begun.known(2) == {2: "1/a"}
    done = begun.promoted(3)
    assert done.promotions == {2: "1/a", 3: "5/b"} and not done.promoting and done.must_compare
    assert done.opened(5, 99) == done, "the same epoch has begun already"
    assert done.opened(6, 99).base == 99
    followed = done.followed("s", {2: "1/a", 3: "5/b", 4: "6/a"})
    assert not followed.must_compare and followed.epoch == 0 and followed.base == -1
    for lineage in (begun, done, followed):
        read_back = Lineage.from_text(lineage.text())
        assert read_back.known(3) == lineage.known(3)
    assert Lineage.from_text("nonsense 2=1/a =3").promotions == {2: "1/a"}


def test_how_commits_were_acknowledged_is_noted_once_when_a_reign_ends() -> None:
    assert Lineage().ended(False).waited == "", "it was no primary"
    reign = Lineage().promotion_begins(5, "b", 1, 70).promoted(2)
    ended = reign.ended(True)
    assert ended.waited == "yes" and ended.ended(False) == ended, "a standby's settings say nothing of it"
    assert reign.ended(False).waited == "no"
    assert ended.promotion_begins(6, "b", 2, 80).waited == "" and ended.promoted(2).waited == ""


def test_a_repeated_promotion_keeps_the_base_of_its_epoch() -> None:
    once = Lineage().promotion_begins(5, "b", 1, 70)
    assert once.promotion_begins(5, "b", 2, 90).base == 70
    assert once.promotion_begins(6, "b", 2, 90).base == 90


def test_the_book_is_durable_and_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lineage"
    lineage = Lineage("s", {2: "1/a"}, 5, 70, 2)
    Book(path).write(lineage)
    assert Book(path).read() == lineage
    for damaged in ('{"unknown": 1}', "", "\x00\x00", '{"epoch": 5, "prom'):
        path.write_text(damaged)
        with pytest.raises(ConfigError, match=r"is damaged: .*remove it"):
            Book(path).read()
    assert Book(tmp_path / "none").read() == Lineage()


def test_a_database_whose_note_of_promotions_is_damaged_does_not_stand_for_election(tmp_path: Path) -> None:
    """Its promotion would fail, after the other server had given way."""
    config = plain_cluster(tmp_path, "", "local all all peer\n")
    for name in ("PG_VERSION", "global/pg_control", "base/5/PG_VERSION", "pg_xact/0000", "pg_multixact/0000"):
        (config.data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (config.data_dir / name).write_text("15\n")
    lineage = Paths(config.state_dir).lineage
    lineage.parent.mkdir(parents=True, exist_ok=True)
    lineage.write_text("\x00\x00")
    with pytest.raises(ConfigError, match="is damaged"):  # the worker says "failed" then
        Database(config, "a", "b", peer_addresses=(), password="").data()
    lineage.unlink()
    assert Database(config, "a", "b", peer_addresses=(), password="").data() == "ready"
    shutil.rmtree(config.data_dir / "base")
    assert Database(config, "a", "b", peer_addresses=(), password="").data() == "failed"


def test_a_part_of_a_database_that_is_missing(tmp_path: Path) -> None:
    for part in ("base", "global", "pg_xact"):
        assert controldata.missing(tmp_path) == part
        (tmp_path / part).mkdir()
    (tmp_path / "pg_multixact").symlink_to(tmp_path / "a disk that is not mounted")
    (tmp_path / "base/16384").mkdir()
    assert controldata.missing(tmp_path) == "base", "replay made a folder anew"
    (tmp_path / "base/1").mkdir()
    (tmp_path / "base/1/PG_VERSION").write_text("15\n")
    assert controldata.missing(tmp_path) == ""
    (tmp_path / "base").rename(tmp_path / "away")
    (tmp_path / "base").symlink_to(tmp_path / "a disk that is not mounted")
    assert controldata.missing(tmp_path) == ""


# --- directories --------------------------------------------------------------------------------------------------------------


def make_data(path: Path, content: str, marker: str = "") -> None:
    path.mkdir()
    (path / "PG_VERSION").write_text("15\n")
    (path / "who").write_text(content)
    if marker:
        (path / seeding.MARKER).write_text(marker)


def test_a_complete_copy_is_switched_in(tmp_path: Path) -> None:
    data = tmp_path / "main"
    make_data(data, "old")
    make_data(tmp_path / "main.new", "new", "complete")
    kept = seeding.switch_in(data, "diverged-2-x")
    assert kept == tmp_path / "main.diverged-2-x"
    assert (data / "who").read_text() == "new" and (kept / "who").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["main", "main.diverged-2-x"]
    assert not (data / seeding.MARKER).exists() and seeding.recover(data, "x") == ""


def test_an_incomplete_copy_is_never_switched_in(tmp_path: Path) -> None:
    data = tmp_path / "main"
    make_data(data, "old")
    make_data(tmp_path / "main.new", "new", "copying")
    with pytest.raises(seeding.ReplicationError, match="no complete copy"):
        seeding.switch_in(data, "x")
    assert seeding.in_progress(data)
    assert seeding.recover(data, "x") == "removed an interrupted copy"
    assert os.listdir(tmp_path) == ["main"] and (data / "who").read_text() == "old"


def test_after_a_crash_between_the_steps_of_a_switch(tmp_path: Path) -> None:
    data = tmp_path / "main"
    # Exchanged, not finished.
    make_data(data, "new", "complete")
    make_data(tmp_path / "main.new", "old")
    assert "finished" in seeding.recover(data, "diverged-2-x")
    assert (data / "who").read_text() == "new" and (tmp_path / "main.diverged-2-x" / "who").read_text() == "old"
    # Without an atomic exchange: moved away, not yet in its place.
    (data).rename(tmp_path / "main.diverged-3")
    make_data(tmp_path / "main.new", "newer", "complete")
    assert "finished" in seeding.recover(data, "diverged-3")
    assert (data / "who").read_text() == "newer" and not seeding.in_progress(data)


def test_other_peoples_directories_are_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "main"
    make_data(data, "old")
    make_data(tmp_path / "main.new", "precious")
    with pytest.raises(seeding.ReplicationError, match="not made by ha_manager"):
        seeding.recover(data, "x")
    assert (tmp_path / "main.new" / "who").read_text() == "precious"


# --- the rest -----------------------------------------------------------------------------------------------------------------


def test_ages_follow_changes_not_wall_clocks() -> None:
    changes = Changes()
    assert changes.age("a", 1, 100.0, first=3.0) == 3.0
    assert changes.age("a", 1, 101.0) == 4.0
    assert changes.age("a", 2, 102.0) == 0.0
    changes.age(("wait", 1), True, 100.0)
    changes.age(("wait", 2), True, 100.0)
    changes.keep({("wait", 2)}, "wait")
    assert changes.age(("wait", 1), True, 105.0) == 0.0 and changes.age(("wait", 2), True, 105.0) == 5.0


def test_scram_verifiers() -> None:
    # RFC 7677's example user: password "pencil".
    verifier = (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert verifies(verifier, "pencil")
    assert not verifies(verifier, "pencil2") and not verifies("md5abc", "pencil") and not verifies("", "")


def test_a_stop_only_gets_stricter(tmp_path: Path) -> None:
    launch = Launch(tmp_path, tmp_path / "data", tmp_path, "postgres", tmp_path, {}, ())
    keeper = Keeper(launch, tmp_path, state="running")
    keeper.stop_now("immediate", 0.5, "x")
    before = keeper._stricter
    keeper.stop_now("fast", 100.0, "y")
    assert keeper._stop == "immediate" and keeper._stricter == before
    keeper.stop_now("immediate", 0.1, "z")
    assert keeper._stricter < before
    assert keeper.tick() is None, "no process is left, so it is stopped"
    assert keeper.state == "stopped" and not keeper.clean
    assert keeper.since <= boottime()


def test_a_keeper_without_room_for_its_note_goes_on_and_writes_it_later(tmp_path: Path) -> None:
    launch = Launch(tmp_path, tmp_path / "data", tmp_path, "postgres", tmp_path, {}, ())
    folder = tmp_path / "run"
    keeper = Keeper(launch, folder, state="running")
    keeper.stop_now("immediate", 0.5, "x")
    assert keeper.tick() == 1.0 and keeper.state == "stopped", "it stops Postgres all the same, and looks again"
    folder.mkdir()
    assert keeper.tick() is None and read_note(folder)["state"] == "stopped"


# --- why a standby doesn't stream ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "segments, reached, timeline",
    [
        (["000000120000000000000012"], 0x12907370, 18),
        (["000000120000000000000012", "000000130000000000000012"], 0x12907370, 19),  # went over, no restartpoint since
        (["000000120000000000000013", "000000130000000000000012"], 0x13000028, 18),  # of another place
        (["000000120000000000000012", "000000130000000000000012"], 0x13000000, 19),  # the end of that segment
        ([], 0, 18),
    ],
)
def test_a_position_belongs_to_the_newest_timeline_with_log_of_it(segments: list[str], reached: int, timeline: int) -> None:
    control = Control(system_identifier="s", state="in archive recovery", checkpoint=500, redo=400, timeline=18)
    assert here_at(control, segments, reached).timeline == timeline


@pytest.mark.parametrize(
    "files, fork",
    [
        ({}, -1),
        ({"000000010000000000000001": ""}, -1),  # the first timeline left none
        ({"000000020000000000000001": ""}, -1),  # how it came about is not known here: nothing could be compared either
        ({"000000020000000000000001": "", "00000002.history": "1\t0/1000148\tx\n"}, 0x1000148),
        (
            {
                "000000020000000000000001": "",
                "000000030000000000000002": "",
                "00000002.history": "1\t0/1000148\tx\n",
                "00000003.history": "1\t0/1000148\tx\n2\t0/2000028\tx\n",
            },
            0x2000028,
        ),
    ],
)
def test_where_the_newest_timeline_here_forked(tmp_path: Path, files: dict[str, str], fork: int) -> None:
    (tmp_path / "pg_wal").mkdir()
    for name, text in files.items():
        (tmp_path / "pg_wal" / name).write_text(text)
    assert halves.newest_fork(tmp_path) == fork


# --- the administrator's files ------------------------------------------------------------------------------------------------


def plain_cluster(folder: Path, conf: str, hba: str = "local all all peer\n") -> PostgresConfig:
    """A cluster outside Debian's layout: configuration and data in one folder."""
    data = folder / "main"
    (data / "base").mkdir(parents=True)
    for name, text in {"postgresql.conf": conf, "pg_hba.conf": hba, "PG_VERSION": "15\n", "base/1": "x"}.items():
        (data / name).write_text(text)
    return PostgresConfig(15, folder, data, data / "postgresql.conf", 5432, folder, state_dir=folder / "state")


@pytest.mark.parametrize(
    "conf, hba, place",
    [
        ("max_connections = many\n", "local all all peer\n", "postgresql.conf:1: max_connections must be a whole number"),
        ("port = 1\n", "# x\nlocal @admins all peer\n", "pg_hba.conf:2: names a file relative to this one"),
    ],
)
def test_what_can_not_be_taken_over_is_refused_before_anything_is_written(
    tmp_path: Path, conf: str, hba: str, place: str
) -> None:
    config = plain_cluster(tmp_path, conf, hba)
    with pytest.raises(ConfigError) as wrong:
        adoption.check(config)
    assert place in str(wrong.value) and not config.state_dir.exists()


def test_room_is_made_without_touching_this_servers_own_files(tmp_path: Path) -> None:
    config = plain_cluster(tmp_path, "ssl_cert_file = 'tls/own.crt'\n")
    (config.data_dir / "tls").mkdir()
    (config.data_dir / "tls/own.crt").write_text("certificate")
    seeding.empty(config)
    assert sorted(path.name for path in config.data_dir.iterdir()) == ["pg_hba.conf", "postgresql.conf", "tls"]
    assert (config.data_dir / "tls/own.crt").read_text() == "certificate"
