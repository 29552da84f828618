"""Opens an export with robomimic's or LeRobot's own code and saves what it read; a program of its own.

    python real_readers.py READERS_FOLDER robomimic|lerobot DATASET OUT.npz [ARGUMENT...]

Both import torchvision, for images, and no torchvision is there for our torch. We have no images, so an empty
stand-in takes its place; everything else is theirs.
"""

import importlib.machinery
import sys
import types
from pathlib import Path

import numpy as np


def stand_in_for_torchvision() -> None:
    for name in (
        "torchvision",
        "torchvision.transforms",
        "torchvision.transforms.functional",
        "torchvision.models",
    ):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    sys.modules["torchvision.transforms"].Lambda = object
    sys.modules["torchvision.transforms"].Compose = object


def read_robomimic(path: str, *keys: str) -> dict[str, np.ndarray]:
    """Every item of SequenceDataset, and the loss of robomimic's BC before and after some training."""
    import robomimic.utils.file_utils as file_utils
    import robomimic.utils.obs_utils as obs_utils
    import torch
    from robomimic.algo import algo_factory
    from robomimic.config import config_factory
    from robomimic.utils.dataset import SequenceDataset

    config = config_factory("bc")
    with config.values_unlocked():
        config.observation.modalities.obs.low_dim = list(keys)
        config.algo.actor_layer_dims = (64,)
        config.algo.optim_params.policy.learning_rate.initial = 0.01
    obs_utils.initialize_obs_utils_with_config(config)
    shapes = file_utils.get_shape_metadata_from_dataset(path, all_obs_keys=config.all_obs_keys)
    columns = ["actions", "rewards", "dones", "policy_action", "truncated"]
    dataset = SequenceDataset(path, keys, columns)
    items = [dataset[i] for i in range(len(dataset))]
    found = {name: np.concatenate([item[name] for item in items]) for name in columns}
    for side in ("obs", "next_obs"):
        for key in keys:
            found[f"{side}/{key}"] = np.concatenate([item[side][key] for item in items])
    for mask in ("train", "valid", "success"):
        some = SequenceDataset(path, keys, columns, filter_by_attribute=mask)
        found[f"mask/{mask}"] = np.array(some.demos)
    found["env_name"] = np.array(file_utils.get_env_metadata_from_dataset(path)["env_name"])

    torch.manual_seed(0)
    model = algo_factory(
        "bc", config, obs_key_shapes=shapes["all_shapes"], ac_dim=shapes["ac_dim"], device="cpu"
    )
    model.set_train()
    loader = torch.utils.data.DataLoader(dataset, batch_size=len(dataset))
    losses = []
    for epoch in range(40):
        for batch in loader:
            info = model.train_on_batch(model.process_batch_for_training(batch), epoch)
            losses.append(float(info["losses"]["action_loss"]))
    found["bc_losses"] = np.array(losses)
    return found


def read_lerobot(root: str) -> dict[str, np.ndarray]:
    """Every frame of LeRobotDataset, its statistics, and windows of actions of one episode."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.datasets.utils import dataset_to_policy_features

    dataset = LeRobotDataset("test", root=root)
    frames = [dataset[i] for i in range(len(dataset))]
    found = {key: np.stack([np.asarray(frame[key]) for frame in frames]) for key in frames[0]}
    for key, statistics in dataset.meta.stats.items():
        found |= {f"stats/{key}/{name}": numbers for name, numbers in statistics.items()}
    episodes = dataset.meta.episodes
    found["episodes/length"] = np.array(episodes["length"])
    found["episodes/facts"] = np.array(episodes["parallel_naf"])
    found["fps"] = np.array(dataset.fps)
    policy = dataset_to_policy_features(dataset.meta.features)
    found["policy_features"] = np.array([f"{name} {feature.type.name}" for name, feature in policy.items()])
    step = 1 / dataset.fps
    windows = LeRobotDataset(
        "test", root=root, episodes=[1], delta_timestamps={"action": [0, step, 2 * step]}
    )
    found["windows"] = np.stack([windows[i]["action"].numpy() for i in range(len(windows))])
    found["padded"] = np.stack([windows[i]["action_is_pad"].numpy() for i in range(len(windows))])
    return found


if __name__ == "__main__":
    readers, kind, dataset, out, *arguments = sys.argv[1:]
    sys.path.append(readers)  # last: what both have is ours
    stand_in_for_torchvision()
    read = {"robomimic": read_robomimic, "lerobot": read_lerobot}[kind]
    np.savez(Path(out), **read(dataset, *arguments))
