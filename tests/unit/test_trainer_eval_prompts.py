"""ImageNet's names and prompts by their published digests, and lists of the user's own."""

import hashlib
import json
import string
import subprocess
import sys

import pytest

from clip_trainer.eval.prompts import (
    IMAGENET_CLASSNAMES,
    OPENAI_IMAGENET_TEMPLATES,
    SIMPLE_IMAGENET_TEMPLATES,
    read_names,
    resolve_classes,
    resolve_templates,
)
from clip_trainer.eval.prompts.template import filled
from clipctl.contract.errors import MissingError, SpecError


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class TestData:
    def test_class_names(self):
        assert len(IMAGENET_CLASSNAMES) == 1000
        assert IMAGENET_CLASSNAMES[:3] == ("tench", "goldfish", "great white shark")
        assert digest(IMAGENET_CLASSNAMES) == "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60"

    def test_templates(self):
        assert (len(OPENAI_IMAGENET_TEMPLATES), len(SIMPLE_IMAGENET_TEMPLATES)) == (80, 7)
        filled_in = [template("x") for template in OPENAI_IMAGENET_TEMPLATES]
        assert digest(filled_in) == "f8cc48dbe0dd0f116cc04b0b68b06576969220f0eedc58f86d1021d218e440e9"
        simple = [template("x") for template in SIMPLE_IMAGENET_TEMPLATES]
        assert digest(simple) == "9e0b1a31c9c5babe43c9a35bf8126bd9215838dd4cc326059e5d75a83b33e1d3"
        assert set(SIMPLE_IMAGENET_TEMPLATES) <= set(OPENAI_IMAGENET_TEMPLATES)

    def test_templates_are_functions_and_format_strings_at_once(self):
        for template in (*OPENAI_IMAGENET_TEMPLATES, *SIMPLE_IMAGENET_TEMPLATES):
            assert template.format("crane") == template("crane")
            assert [field for _, field, _, _ in string.Formatter().parse(template) if field is not None] == [""]

    def test_reading_them_does_not_import_torch(self):
        code = "import clip_trainer.eval.prompts, sys; sys.exit('torch' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)


class TestFilled:
    def test_three_kinds_of_templates(self):
        assert filled(["a {}", "the {}"], "cat") == ["a cat", "the cat"]
        assert filled([lambda c: c.upper()], "cat") == ["CAT"]
        assert filled(SIMPLE_IMAGENET_TEMPLATES[:1], "cat") == ["itap of a cat."]


class TestSources:
    def test_names_of_sets(self):
        assert resolve_classes("imagenet") is IMAGENET_CLASSNAMES
        assert resolve_templates("imagenet") is OPENAI_IMAGENET_TEMPLATES
        assert resolve_templates("simple") is SIMPLE_IMAGENET_TEMPLATES

    def test_lists(self):
        assert resolve_classes(["cat", "dog"]) == ("cat", "dog")
        assert [t("cat") for t in resolve_templates(("a {}",))] == ["a cat"]

    def test_a_json_file_in_any_language(self, tmp_path):
        file = tmp_path / "クラス.json"
        file.write_text(json.dumps(["鮫", "猫", "squalo è"], ensure_ascii=False), encoding="utf-8")
        assert resolve_classes(str(file)) == ("鮫", "猫", "squalo è")
        prompts = tmp_path / "prompts.json"
        prompts.write_text("\ufeff" + json.dumps(["una foto di {}"]), encoding="utf-8")
        assert resolve_templates(f"file://{prompts}")[0]("squalo") == "una foto di squalo"

    def test_a_relative_path(self, tmp_path, monkeypatch):
        (tmp_path / "names.json").write_text('["a", "b"]')
        monkeypatch.chdir(tmp_path)
        assert read_names("names.json") == ("a", "b")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(MissingError, match=r"names.json does not exist"):
            read_names(str(tmp_path / "names.json"))

    @pytest.mark.parametrize("content", ["", "{", '{"a": 1}', "[]", "[1, 2]", '["a", ""]', "[" * 100_000])
    def test_anything_but_a_list_of_texts_is_refused(self, tmp_path, content):
        (tmp_path / "names.json").write_text(content)
        with pytest.raises(SpecError, match=r"names\.json is not"):
            read_names(str(tmp_path / "names.json"))

    def test_one_class_is_none(self, tmp_path):
        (tmp_path / "names.json").write_text('["a"]')
        with pytest.raises(SpecError, match="names 1 classes"):
            resolve_classes(str(tmp_path / "names.json"))

    def test_a_template_without_a_place_is_refused(self, tmp_path):
        (tmp_path / "prompts.json").write_text('["a {}", "nothing"]')
        with pytest.raises(SpecError, match="'nothing'"):
            resolve_templates(str(tmp_path / "prompts.json"))
