"""Which texts in BodyPartExamined are a reason to refuse a file."""

import unicodedata
import warnings

import pydicom
import pytest

from cvrnet.data import read_image
from cvrnet.data.chest_names import may_be_chest
from tests.data.test_dicom import refused, write

CHESTS = """CHEST, Chest PA, PORT CHEST, CHESTABDOMEN, CHEST_TO_ABDOMEN, CHEST_TO_PELVIS, CHESTABDPELVIS, THORAX,
Thorax AP, THORACIC CAVITY, LUNG, LUNGS, RIBS, RIBCAGE, STERNUM/RIB, TORSO, WHOLEBODY, MEDIASTINUM, COR PULMO,
CXR, XR CHEST 1V, Ｃｈｅｓｔ, TÓRAX, TÒRAX, TORAX, TÓRAX AP, T_RAX, T.RAX, CAJA TORÁCICA, PECHO, PULMÓN,
PARRILLA COSTAL,
PEITO, PULMÃO, POITRINE, POUMON, CÔTES, TORACE, PETTO, POLMONI, BRUST, BRUSTKORB, LUNGE, BORST, LONGEN, BRÖST,
BRYST, KLATKA, Klatka piersiowa, PŁUCA, HRUDNÍK, PLÍCE, PLUĆA, MELLKAS, TÜDŐ, PLĂMÂNI, GÖĞÜS, AKCİĞER, TORAKS,
RINTAKEHÄ, KEUHKO, NGỰC, PHỔI, DADA, PARU, грудь, ГРУДНАЯ КЛЕТКА, ЛЁГКИЕ, ОГК, ГРЪДЕН КОШ, ЛЕГЕНІ,
ГЪРДИ, ΘΩΡΑΚΑΣ, ΘΩΡΑΞ, στήθος, 胸部, 胸, 肺, 흉부, 폐, صدر, חזה, ทรวงอก"""
OTHERS = """HAND, KNEE, SKULL, ABDOMEN, PELVIS, FOOT, HEAD, NECK, BRAIN, ANKLE, SHOULDER, BREAST, HIP, LEG, ARM,
LONG BONE,
SPINE, TSPINE, THORACIC SPINE, CSPINE, L-SPINE, THORACOLUMBAR, COLUMNA TORÁCICA, RACHIS THORACIQUE,
BRUSTWIRBELSÄULE, 胸椎, 흉추 척추, MANO, RODILLA, CRÁNEO, CR?NEO, ABDÓMEN, MÃO, M?O, PIED, GENOU, CRÂNE, KNIE,
SCHÄDEL, BAUCH, RĘKA, KOLANO, 手, 膝, 腹部, 무릎, РУКА, КОЛЕНО, ЧЕРЕП, ΧΕΡΙ, OTHER HAND, LEFT KNEE AP"""
UNKNOWN = ["", " ", "UNKNOWN", "OTHER", "N/A", "NONE", "NOT SPECIFIED", "PA", "AP PORTABLE", "XR", "1", "-", "????",
           "\ufffd" * 3, "DESCONOCIDO", "UNBEKANNT", "OTRO", "其他", "НЕИЗВЕСТНО"]  # fmt: skip


def words(text: str) -> list[str]:
    return [word.strip() for word in text.replace("\n", " ").split(",")]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("case", [str, str.lower, str.upper, str.title])
def test_names_in_any_case_and_unicode_form(form, case):
    def refused_of(names):
        return [name for name in names if not may_be_chest(unicodedata.normalize(form, case(name)))]

    assert refused_of([*words(CHESTS), *UNKNOWN]) == []
    assert refused_of(words(OTHERS)) == words(OTHERS)


@pytest.mark.parametrize("lost", ["?", "??", "\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}" * 2])
def test_an_accented_letter_that_was_lost(lost):
    for name in ("TÓRAX", "TÒRAX AP", "CAJA TORÁCICA", "PŁUCA", "BRÖST", "PLÍCE", "AKCİĞER", "HRUDNÍK"):
        assert may_be_chest("".join(c if c.isascii() else lost for c in name)), name
    for name in ("CRÁNEO", "SCHÄDEL", "MÃO", "GENOU"):
        assert not may_be_chest("".join(c if c.isascii() else lost for c in name)), name


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("TÓRAX", "utf-8"),
        ("TÓRAX", "cp850"),
        ("PŁUCA", "iso8859_2"),
        ("PŁUCA", "cp1250"),
        ("胸部", "utf-8"),
        ("胸部", "gb18030"),
        ("胸部", "big5"),
        ("胸部", "shift_jis"),
        ("胸部", "euc_jp"),
        ("胸部", "iso2022_jp"),
        ("흉부", "euc_kr"),
        ("ГРУДЬ", "cp1251"),
        ("ГРУДЬ", "iso8859_5"),
        ("ΘΩΡΑΚΑΣ", "iso8859_7"),
    ],
)
@pytest.mark.parametrize("read", ["latin-1", "cp1252"])
def test_bytes_in_another_character_set(name, written, read):
    try:
        text = name.encode(written).decode(read)
    except UnicodeDecodeError:
        pytest.skip("cp1252 has no such character")
    assert may_be_chest(text)


def test_other_parts_in_another_character_set_stay_other_parts():
    for name in ("手", "头", "膝", "РУКА", "КОЛЕНО", "CRÁNEO", "무릎", "ΧΕΡΙ"):
        for written in ("utf-8", "gb18030", "shift_jis", "euc_kr", "cp1251", "iso8859_5", "iso8859_7", "cp850"):
            try:
                text = name.encode(written).decode("latin-1")
            except UnicodeEncodeError:
                continue
            assert not may_be_chest(text), (name, written)


def test_files(tmp_path):
    """As the bytes lie in the file: pydicom reads this element as Latin-1, whatever SpecificCharacterSet says."""
    path = write(tmp_path / "a.dcm", BodyPartExamined="CHESTS  ")
    content = path.read_bytes()
    for part in ("TÓRAX".encode(), "TÓRAX".encode("latin-1"), b"T?RAX", "胸部".encode(), "흉부".encode("euc_kr"), b""):
        for charset in ("", "ISO_IR 100", "ISO_IR 192"):
            path.write_bytes(content.replace(b"CHESTS  ", part.ljust(8)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ds = pydicom.dcmread(path)
                ds.SpecificCharacterSet = charset
                ds.save_as(path)
            assert read_image(path).any(), part
    path = write(tmp_path / "b.dcm", BodyPartExamined="HAND")
    assert refused(path) == "not a chest: its tags name another part of the body; --any-body-part reads it"
    assert read_image(path, any_body_part=True).any()
    assert "another modality" in refused(write(tmp_path / "c.dcm", Modality="MG", BodyPartExamined="CHEST"))
