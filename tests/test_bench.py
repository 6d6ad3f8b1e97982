"""The benchmark: its counts against known ones, and what it writes. Nothing here is timed."""

import json

import pytest
from test_cwvae import tiny

import bench
from config import Config


def test_operations_of_a_frame():
    # In multiplications: the encoder, the decoder, a tick of one level's cell.
    encoder = 31**2 * 16 * 32 + 14**2 * 16 * 32 * 64 + 6**2 * 16 * 64 * 128 + 2**2 * 16 * 128 * 256
    decoder = (220 * 1024 + 25 * 1024 * 128 + 5**2 * 25 * 128 * 64 + 13**2 * 36 * 64 * 32
               + 30**2 * 36 * 32)
    cell = (240 * 200 + 2 * 200 * 600 + 2 * (200 * 200 + 200 * 40) + 1024 * 200 + 200 * 200)
    config = Config(dataset="moving_digits", levels=1)
    assert bench.forward_flops(config) == 2 * (encoder + decoder + cell)


def test_kernels_of_a_loop_are_counted():
    hlo = """HloModule m
%body (p: (s32[], f32[2])) -> (s32[], f32[2]) {
  %p = (s32[], f32[2]) parameter(0)
  %x = f32[2] get-tuple-element(%p), index=1
  %a = f32[2] fusion(%x), kind=kLoop
  %b = f32[2] dot(%a, %x)
  %c = f32[2] fusion(%b), kind=kLoop
  ROOT %t = (s32[], f32[2]) tuple(%x, %c)
}
ENTRY %main (q: (s32[], f32[2])) -> (s32[], f32[2]) {
  ROOT %w = (s32[]) while(%q), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"17"}}
}
"""
    ((ticks, kernels),) = bench.loops(hlo)
    assert ticks == "17" and kernels == {"fusion": 2, "dot": 1}


@pytest.mark.slow
def test_a_tick_on_a_gpu_has_few_kernels(tmp_path):
    """Each kernel takes a GPU two microseconds. They are counted in XLA's program for a CPU."""
    config = tiny(levels=1, seq_len=16, cell_deter_size=64, cell_embed_size=64)
    bench.export(config, str(tmp_path))
    program = (tmp_path / "step.optimized.txt").read_text()
    forward, backward = (sum(counts.values()) / 4 for _, counts in bench.loops(program))
    assert 5 < forward <= 11 and 5 < backward <= 14


def test_the_noise_of_a_step_is_not_a_constant_of_its_program():
    step = bench.training_parts(tiny().replace(jit=True))["step"]
    assert "constant({...})" not in step.experimental_get_compiler_ir()(stage="hlo")


def test_it_writes_every_part(workplace, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", [
        "bench.py", "train", "--plain", "--only", "step", "--config", str(workplace / "tiny.yml"),
        "--runs", "2", "--json", str(tmp_path / "out.json"), "--cell-type", "CategoricalRSSMCell",
        "--batch_size", "1", "--remat", "--cell-stoch-classes", "2"])
    config = bench.configure(bench.parse_flags())
    assert config.cell_type == "CategoricalRSSMCell" and config.batch_size == 1 and config.remat
    bench.main()
    results = json.loads((tmp_path / "out.json").read_text())
    assert [part["name"] for part in results["parts"]] == ["step", "plain step"]
    for part in results["parts"]:
        assert len(part["seconds"]) == 2
        assert ("speedup_over_plain" in part) == (not part["name"].startswith("plain"))
