"""Services of a process that trains."""

import jax

from tlx.trainer.process import keep_compiled_programs


def test_compiled_programs_are_kept_where_jax_has_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    assert before[names[0]]  # conftest.py names one
    try:
        keep_compiled_programs()
        assert {name: getattr(jax.config, name) for name in names} == before
        jax.config.update(names[0], None)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir is None
        monkeypatch.setattr(jax, "process_count", lambda: 1)
        keep_compiled_programs()
        assert str(jax.config.jax_compilation_cache_dir).startswith(f"{tmp_path}/programs/")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
