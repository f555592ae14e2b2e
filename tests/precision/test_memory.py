"""Memory that is really free, with files like the kernel's."""

from pathlib import Path

import pytest

from tercet.precision.memory import Memory, _vm_stat_free, cgroup_limits, host_memory, process_memory

GIB = 1 << 30
V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw\n"


def write(root: Path, files: dict[str, object]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))


def machine(total: int, available: int) -> dict[str, object]:
    return {
        "proc/meminfo": f"MemTotal: {total >> 10} kB\nMemFree: 1 kB\nMemAvailable: {available >> 10} kB\n"
    }


def test_without_limits_the_machine_decides(tmp_path: Path) -> None:
    write(tmp_path, machine(24 * GIB, 20 * GIB))
    assert host_memory(tmp_path) == Memory(24 * GIB, 20 * GIB, "the machine")


def test_an_old_kernel_without_memavailable_gives_what_is_free(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": "MemTotal: 4096 kB\nMemFree: 1024 kB\n"})
    assert host_memory(tmp_path).free_bytes == 1 << 20


def test_pages_of_files_that_can_be_dropped_are_not_used_in_a_v2_cgroup(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            **machine(24 * GIB, 20 * GIB),
            "proc/self/cgroup": "0::/job\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/job/memory.max": 4 * GIB,
            "sys/fs/cgroup/job/memory.high": "max",
            "sys/fs/cgroup/job/memory.current": 3 * GIB,
            "sys/fs/cgroup/job/memory.stat": f"anon 1\ninactive_file {2 * GIB}\nactive_file 7\n",
        },
    )
    assert host_memory(tmp_path) == Memory(4 * GIB, 3 * GIB, "the cgroup /sys/fs/cgroup/job")


def test_the_tightest_of_nested_cgroups_decides(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            **machine(24 * GIB, 20 * GIB),
            "proc/self/cgroup": "0::/outer/inner\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/outer/inner/memory.max": 8 * GIB,
            "sys/fs/cgroup/outer/inner/memory.current": GIB,
            "sys/fs/cgroup/outer/inner/memory.stat": "inactive_file 0\n",
            "sys/fs/cgroup/outer/memory.max": 6 * GIB,
            "sys/fs/cgroup/outer/memory.current": 5 * GIB,
            "sys/fs/cgroup/outer/memory.stat": "inactive_file 0\n",
        },
    )
    assert [limit.free_bytes for limit in cgroup_limits(tmp_path)] == [7 * GIB, GIB]
    assert host_memory(tmp_path) == Memory(6 * GIB, GIB, "the cgroup /sys/fs/cgroup/outer")


def test_memory_high_is_a_limit_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/job/memory.max": 4 * GIB,
            "sys/fs/cgroup/job/memory.high": 2 * GIB,
            "sys/fs/cgroup/job/memory.current": GIB,
        },
    )
    assert [limit.total_bytes for limit in cgroup_limits(tmp_path)] == [2 * GIB]


def v1(root_in_mount: str, path: str, folder: str, limit: int) -> dict[str, object]:
    place = f"sys/fs/cgroup/memory{folder}"
    return {
        **machine(24 * GIB, 20 * GIB),
        "proc/self/cgroup": f"9:name=systemd:/x\n4:memory:{path}\n0::/\n",
        "proc/self/mountinfo": (
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
            f"35 31 0:32 {root_in_mount} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
            "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
        ),
        f"{place}/memory.limit_in_bytes": limit,
        f"{place}/memory.usage_in_bytes": 2 * GIB,
        f"{place}/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}\n",
    }


def test_a_v1_cgroup_counts_its_whole_subtree(tmp_path: Path) -> None:
    write(tmp_path, v1("/", "/job", "/job", 4 * GIB))
    assert host_memory(tmp_path) == Memory(4 * GIB, 3 * GIB, "the cgroup /sys/fs/cgroup/memory/job")


def test_inside_a_container_the_mount_is_the_containers_own_cgroup(tmp_path: Path) -> None:
    write(tmp_path, v1("/docker/abc", "/docker/abc", "", 4 * GIB))
    assert host_memory(tmp_path).free_bytes == 3 * GIB


def test_a_path_that_cannot_be_seen_from_inside_falls_back_to_the_mount(tmp_path: Path) -> None:
    write(tmp_path, v1("/", "/docker/abc", "", 4 * GIB))
    assert host_memory(tmp_path).free_bytes == 3 * GIB


def test_a_v1_cgroup_without_a_limit_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, v1("/", "/job", "/job", 9223372036854771712))
    assert cgroup_limits(tmp_path) == []


def test_a_cgroup_that_is_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    write(tmp_path, v1("/", "/job", "/job", GIB // 2))
    assert host_memory(tmp_path).free_bytes == 0


def test_damaged_kernel_files_limit_nothing(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/job/memory.max": "lots",
            "sys/fs/cgroup/job/memory.current": "",
        },
    )
    assert cgroup_limits(tmp_path) == []


def test_macos_counts_inactive_pages_as_free() -> None:
    report = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
        "Pages free:                                5.\nPages active:                            100.\n"
        "Pages inactive:                           20.\nPages speculative:                         3.\n"
        'Pages purgeable:                           2.\n"Translation faults":                  9.\n'
    )
    assert _vm_stat_free(report) == 30 * 16384
    assert _vm_stat_free("") == 0


def test_this_machine_has_memory_and_this_process_uses_some() -> None:
    memory = host_memory()
    assert 0 < memory.free_bytes <= memory.total_bytes
    assert 0 < process_memory() < memory.total_bytes


@pytest.mark.parametrize("text", ["", "12", "x y"])
def test_an_unreadable_statm_gives_no_number(tmp_path: Path, text: str) -> None:
    if text != "x y":
        write(tmp_path, {"proc/self/statm": text})
    assert process_memory(tmp_path) == 0
