from keras_switcher.machine import child_environment


def test_processes_beside_each_other_get_the_gpus_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5e,")
    seen = [child_environment(number)["CUDA_VISIBLE_DEVICES"] for number in range(3)]
    assert seen == ["2", "GPU-5e", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert child_environment(1)["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "CUDA_VISIBLE_DEVICES" not in child_environment(1)
