"""Helpers of the demo's tests: a run of two folds whose predictions differ, and files to upload."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from cvrnet.data.drawing import draw_film
from cvrnet.runs.checkpoint import save_checkpoint
from tests.support.networks import small

CLASSES = ["CVP", "NCP", "NOR"]
SECRET = "Meyer^Anna-1952"


def make_run(folder: Path, folds: int = 2) -> Path:
    """Write a run whose predictions differ between images and between folds; return its folder."""
    for fold in range(1, folds + 1):
        model = small(img_size=64)
        torch.manual_seed(fold)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.1 * torch.randn(()))
        save_checkpoint(model, folder / f"fold-{fold}", CLASSES)
    return folder


def film(label: str = "NCP", size: int = 128) -> np.ndarray:
    """Return the pixels of a phantom, uint8 (H, W)."""
    return draw_film(label, seed=1, patient=2, image=3, size=size)[0]


def write_png(path: Path, label: str = "NCP", size: int = 128) -> Path:
    """Write a phantom as a PNG file; return its path."""
    Image.fromarray(film(label, size)).save(path, format="PNG")
    return path


def write_dicom(path: Path, pixels: np.ndarray) -> Path:
    """Write a DICOM radiograph with a patient's name; ``pixels`` are uint8, (H, W) or (frames, H, W)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    ds.PatientName = ds.PatientID = SECRET
    ds.Modality, ds.BodyPartExamined, ds.PhotometricInterpretation = "DX", "CHEST", "MONOCHROME2"
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.PixelData = pixels.tobytes()
    ds.save_as(path, enforce_file_format=True)
    assert pydicom.dcmread(path).PatientID == SECRET
    return path
