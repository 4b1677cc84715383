import pytest

from clip_trainer.data.check.script import script_of


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("a photo of 2 cats", "Latin"),
        ("Ein Haus am See – größer", "Latin"),
        ("два кота", "Cyrillic"),
        ("два кота, a cat of mine", "Latin"),
        ("δύο γάτες", "Greek"),
        ("两只猫在沙发上", "Han"),
        ("赤い電車", "Japanese"),
        ("カメラ", "Japanese"),
        ("고양이 두 마리", "Hangul"),
        ("قطتان", "Arabic"),
        ("שני חתולים", "Hebrew"),
        ("दो बिल्लियाँ", "Devanagari"),
        ("2023-01-01 10:00", "none"),
        ("", "none"),
        ("\ud800\udfff", "none"),
        ("😀 ❤️", "none"),
    ],
)
def test_scripts(text, script):
    assert script_of(text) == script


def test_only_the_beginning_of_a_long_text_counts():
    assert script_of("cat " * 300 + "кот " * 10_000) == "Latin"
