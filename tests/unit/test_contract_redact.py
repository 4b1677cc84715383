"""Credentials are masked wherever they turn up, and ordinary text is left alone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipctl.contract.redact import MASK, is_secret_name, mask_credentials, redact

KEY_ID = "AKIA" + "IOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"

LEAKS = [
    f"AWS_SECRET_ACCESS_KEY={SECRET}",
    f"aws_secret_access_key = {SECRET}",
    f"secretAccessKey: {SECRET}",
    f"export SECRET='{SECRET}'",
    f'{{"password": "{SECRET}"}}',
    f'{{"api_key":"{SECRET}"}}',
    f"WANDB_API_KEY={SECRET}",
    f"HF_TOKEN={SECRET}",
    f"token: {SECRET}",
    f"db_passwd={SECRET}",
    f"s3://user:{SECRET}@host/bucket",
    f"could not open https://me:{SECRET}@proxy.example:8080/x?y=1",
    f"HTTPS://ME:{SECRET}@HOST/",
    f"https://b.s3.amazonaws.com/k?X-Amz-Signature={SECRET}&X-Amz-Date=1",
    f"https://b.s3.amazonaws.com/k?X-Amz-Security-Token={SECRET}",
    f"https://b.s3.amazonaws.com/k?X-Amz-Credential={SECRET}/20260101/us-east-1",
    f"https://b.s3.amazonaws.com/k?AWSAccessKeyId=x&Signature={SECRET}",
]
HARMLESS = [
    "",
    "loss 1.25 at step 100",
    "s3://bucket/prefix/shard-000001.tar",
    "https://host:8080/path",
    "git@host:repo.git",
    "mailto:somebody@example.com",
    "the tokenizer has 49408 tokens",
    "hf_tokenizer_name: timm/ViT-B-16-SigLIP",
    "output_tokens: True",
    "run.yaml:3:1 train.steps: Input should be greater than 0",
    "automountServiceAccountToken",
    "step-00000010.inc-000001",
    "AKIASHORT",
]


@pytest.mark.parametrize("text", LEAKS)
def test_credentials_are_masked(text):
    assert SECRET not in redact(text)
    assert MASK in redact(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_text_is_left_alone(text):
    assert redact(text) == text
    assert mask_credentials(text) == text


@pytest.mark.parametrize("prefix", ["AKIA", "ASIA"])
def test_access_key_ids_are_masked_wherever_they_stand(prefix):
    key = prefix + KEY_ID[4:]
    assert redact(f"The key {key} is unknown.") == f"The key {MASK} is unknown."
    assert mask_credentials(f'"{key}"') == f'"{MASK}"'


def test_what_is_around_the_credential_stays_readable():
    assert redact(f"s3://user:{SECRET}@host/bucket/key") == f"s3://{MASK}@host/bucket/key"
    assert redact(f'{{"password":"{SECRET}","step":3}}') == f'{{"password":"{MASK}","step":3}}'


@pytest.mark.parametrize("text", LEAKS)
def test_masking_twice_changes_nothing(text):
    assert redact(redact(text)) == redact(text)


def test_several_credentials_in_one_text():
    assert SECRET not in redact("\n".join(LEAKS))


def test_manifests_keep_what_only_sounds_secret():
    manifest = json.dumps(
        {"automountServiceAccountToken": False, "tokenExpirationSeconds": 3600, "secretName": "hub-credentials"}
    )
    assert mask_credentials(manifest) == manifest


@given(st.text(max_size=60))
def test_any_text_survives(text):
    assert isinstance(redact(text), str)


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "APIKEY", "Db_Password", "SSH_PRIVATE_KEY"]
)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "RANK", "NCCL_DEBUG", "KEYBOARD", "MONKEY"])
def test_names_that_are_no_secrets(name):
    assert not is_secret_name(name)
