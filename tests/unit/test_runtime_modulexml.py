"""modulexml, and the Manager's configuration which is read with it: what is wrong is said with its place and a remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manager import config
from manager.model import Mode
from manager.paths import Paths
from runtime.errors import ConfigError
from runtime.modulexml import parse

SAMPLES = Path(__file__).parents[2] / "conf"

PROCESS = '<process name="a" init_script="/i" pid_file="/p"/>'


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """The samples, in a folder where they can be damaged."""
    made = Paths(tmp_path)
    for path in (made.configuration, made.active_module, made.passive_module):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((SAMPLES / path.relative_to(tmp_path)).read_bytes())
    return made


def test_the_samples_are_what_the_design_says(paths: Paths) -> None:
    active, passive = config.read(paths, Mode.ACTIVE), config.read(paths, Mode.PASSIVE)
    # `ha start` enables the role HA in both files
    assert active.enabled == {"policyserver"}
    assert passive.enabled == set()
    by_name = {p.name: p for p in active.processes}
    heartbeat, ha_manager, policy = by_name["heartbeat"], by_name["ha_manager"], by_name["policyserver"]
    assert heartbeat.start_order < ha_manager.start_order < policy.start_order
    assert heartbeat.stop_order == policy.stop_order < ha_manager.stop_order
    assert (heartbeat.hang_limit, ha_manager.hang_limit) == (1.0, 3.0)
    assert heartbeat.restart[1:] == ("-m", "heartbeat.daemon")
    assert active.named("ha") == ("heartbeat", "ha_manager", "logrelay")
    # Nobody waits for the log: neither the policy server at a start, nor heartbeat's hand-over at a stop.
    assert by_name["logrelay"].start_order > policy.start_order
    assert by_name["logrelay"].stop_order > ha_manager.stop_order
    assert (heartbeat.give_up_after, ha_manager.give_up_after, policy.give_up_after) == (0, 0, 10)
    assert active.named("Heartbeat") == ("heartbeat",)
    assert active.named("nobody") == ()


def test_a_process_that_says_little_gets_the_files_order(paths: Paths) -> None:
    other = PROCESS.replace('"a"', '"b"').replace("/p", "/q")
    paths.configuration.write_text(f'<manager><role name="r">{PROCESS}{other}</role></manager>')
    a, b = config.load_processes(paths)
    assert a.start_order < b.start_order
    assert b.stop_order < a.stop_order
    assert a == replace(a, control="", restart=(), hang_limit=3.0)


def manager(*processes: str) -> str:
    return f'<manager><role name="r">{"".join(processes)}</role></manager>'


def roles(text: str) -> str:
    return f"<module><init><roles>{text}</roles></init></module>"


def changed(**attributes: str) -> str:
    """PROCESS with other attributes, or more."""
    values = {"name": "a", "init_script": "/i", "pid_file": "/p"} | attributes
    return f"<process {' '.join(f'{name}={chr(34)}{value}{chr(34)}' for name, value in values.items())}/>"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not well-formed XML: Document is empty (correct the line)"),
        ("<manager>\n<role>", ":2: is not well-formed XML"),
        ("<manger/>", ":1: <manger> is not what this file begins with (check that it is the right file)"),
        ('<manager>\n<role name="r"/></manager>', ":2: <role> lacks an element (add process)"),
        (
            f"<manager>\n\n<role>{PROCESS}</role></manager>",
            ':3: <role>: attribute name is missing (give the role a name, such as name="HA")',
        ),
        (manager("\n", changed(name="a b")), ":2: <process> attribute name: 'a b' does not look right"),
        (manager(changed(hang_limit="soon")), "attribute hang_limit: 'soon' is not valid"),
        (manager(changed(hang_limit="0")), "hang_limit: 0 is not greater than 0 (write a number greater than 0)"),
        (manager(changed(hang_limit="0.1")), "hang_limit: 0.1 is out of range (write a number from 0.2 to 600)"),
        (manager(changed(stopp="2")), "attribute stopp: is not known here (remove it, or check its spelling)"),
        (manager(changed(init_script="i")), "attribute init_script: 'i' is not an absolute path (begin it with /)"),
        (manager(changed(restart="'x")), "attribute restart: \"'x\" can't be cut into words"),
        (manager(changed(restart="x y")), "attribute restart: 'x' is not an absolute path"),
        (
            f'<manager><role name="r">{PROCESS}</role>\n<role name="r">{PROCESS}</role></manager>',
            ":2: <role> 'r' stands there twice",
        ),
        (manager(PROCESS, "\n", PROCESS), ":2: a is used in line 1 already (names and pid files must be different)"),
        (
            '<!DOCTYPE manager [<!ENTITY x SYSTEM "/etc/passwd">]><manager>&x;</manager>',
            "has a DOCTYPE (remove it: entities and DTDs are not accepted)",
        ),
        ('<!DOCTYPE manager SYSTEM "http://example.org/x.dtd"><manager/>', "has a DOCTYPE"),
    ],
)
def test_a_wrong_manager_conf_is_refused_with_place_and_remedy(paths: Paths, text: str, said: str) -> None:
    paths.configuration.write_text(text)
    with pytest.raises(ConfigError) as refused:
        config.read(paths, Mode.ACTIVE)
    assert str(refused.value).startswith(f"{paths.configuration}:")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<module/>", ":1: <module> lacks an element (add init)"),
        ("<module><init/></module>", "<init> lacks an element (add roles)"),
        (roles('<role name="HA"/>'), "<role>: attribute enabled is missing (write 1 or 0)"),
        (roles('\n<role name="HA" enabled="yes"/>'), ":2: <role> attribute enabled: 'yes' is not allowed (write 1 or 0)"),
    ],
)
def test_a_wrong_module_file_is_refused_with_place_and_remedy(paths: Paths, text: str, said: str) -> None:
    paths.active_module.write_text(text)
    with pytest.raises(ConfigError) as refused:
        config.read(paths, Mode.ACTIVE)
    assert said in str(refused.value)
    assert config.read(paths, Mode.PASSIVE).processes


def test_what_the_policy_server_writes_beside_the_roles_is_left_to_it(paths: Paths) -> None:
    paths.active_module.write_text(
        '<module id="1" name="Commander" colour="blue"><init><roles><role name="HA" enabled="1"/>'
        '<role name="Scanner" enabled="1"/></roles><other x="y"><z/></other></init></module>'
    )
    read = config.read(paths, Mode.ACTIVE)
    assert read.roles == {"HA"}
    assert read.warnings == (
        f"{paths.active_module}:1: role Scanner is enabled, but {paths.configuration} does not define it",
    )  # fmt: skip


def test_an_inactive_module_enables_nothing(paths: Paths) -> None:
    paths.active_module.write_text(paths.active_module.read_text().replace('active="1"', 'active="0"'))
    assert config.read(paths, Mode.ACTIVE).enabled == frozenset()


def test_missing_and_unreadable_files_are_named(paths: Paths) -> None:
    paths.active_module.unlink()
    with pytest.raises(ConfigError, match=r"module\.xml: there is no such file \(put it there; the package brings a sample\)"):
        config.read(paths, Mode.ACTIVE)
    paths.active_module.mkdir()
    with pytest.raises(ConfigError, match=r"module\.xml: (can't be read|is not a regular file)"):
        config.read(paths, Mode.ACTIVE)


def test_mode_is_what_passive_device_says(paths: Paths) -> None:
    assert paths.mode() is Mode.ACTIVE
    paths.passive_device.touch()
    assert paths.mode() is Mode.PASSIVE


def test_bombs_and_endless_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text("<x>" + " " * (1 << 20) + "</x>")
    with pytest.raises(ConfigError, match="larger than"):
        parse(path)
    path.write_text("<x>" * 5000 + "</x>" * 5000)
    with pytest.raises(ConfigError, match="not well-formed"):
        parse(path)


def test_typed_attributes(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text('<x a=" 5 " b="1" c="10.0.0.1" d="" e="word" f="nan">\n<y/></x>')
    x = parse(path)
    assert (x.whole("a"), x.number("a"), x.flag("b"), x.address("c")) == (5, 5.0, True, "10.0.0.1")
    assert (x.text("none", "z"), x.whole("d", 7), x.flag("none", False), x.address("d", "")) == ("z", 7, False, "")
    assert [child.line for child in x.children("y")] == [2]
    for wrong, said in [
        (lambda: x.text("d"), 'x.xml:1: <x> attribute d: is missing or empty (add d="…" to <x>)'),
        (lambda: x.whole("e"), "attribute e: 'word' is not a whole number (write a whole number)"),
        (lambda: x.whole("a", least=6), "attribute a: 5 is out of range (write a whole number of at least 6)"),
        (lambda: x.whole("a", most=4), "attribute a: 5 is out of range (write a whole number of at most 4)"),
        (lambda: x.number("f"), "attribute f: 'nan' is not a number"),
        (lambda: x.flag("e"), "attribute e: 'word' is neither 1 nor 0 (write 1 or 0)"),
        (lambda: x.address("e"), "attribute e: 'word' is not an IP address"),
        (lambda: x.need("z"), "<x> lacks <z> (add <z …/> inside <x>)"),
    ]:
        with pytest.raises(ConfigError) as refused:
            wrong()
        assert said in str(refused.value)
