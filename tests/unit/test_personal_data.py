"""Personal data: numbers with their check digits, and code in which nothing may be found."""

import pytest

from policies.packs import builtin_rules
from vfs.redaction import Engine, from_mapping
from vfs.redaction.identity_numbers import CHECKS

ENGINE = Engine(
    from_mapping(plain, trusted=True) for plain in builtin_rules() if "pii" in plain["profiles"]
)


def found(text: str) -> list[str]:
    data = text.encode()
    return [data[one.start : one.end].decode() for one in ENGINE.find(data, "secrets+pii")]


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        ("card", "4111 1111 1111 1111", "4111 1111 1111 1112"),
        ("card", "371449635398431", "361449635398431"),
        ("iban", "GB29 NWBK 6016 1331 9268 19", "GB29 NWBK 6016 1331 9268 18"),
        ("iban", "DE89370400440532013000", "DE8937040044053201300"),
        ("uk-nhs", "943 476 5919", "943 476 5918"),
        ("ca-sin", "130 692 544", "130 692 545"),
        ("de-tax-id", "86095742719", "86095742718"),
        ("fr-nir", "2 69 05 49 588 157 80", "2 69 05 49 588 157 81"),
        ("it-cf", "RSSMRA85T10A562S", "RSSMRA85T10A562T"),
        ("es-dni", "12345678Z", "12345678A"),
        ("es-dni", "X1234567L", "X1234567M"),
        ("pl-pesel", "44051401359", "44051401358"),
        ("nl-bsn", "111222333", "111222334"),
        ("se-pnr", "811218-9876", "811218-9877"),
        ("fi-hetu", "131052-308T", "131052-308U"),
        ("br-cpf", "529.982.247-25", "529.982.247-26"),
        ("br-cnpj", "11.222.333/0001-81", "11.222.333/0001-82"),
        ("cl-rut", "12.345.678-5", "12.345.678-6"),
        ("in-aadhaar", "2341 2341 2346", "2341 2341 2347"),
        ("cn-id", "11010519491231002X", "110105194912310021"),
        ("sg-nric", "S0000001I", "S0000001J"),
        ("au-tfn", "123 456 782", "123 456 783"),
        ("za-id", "8001015009087", "8001015009088"),
        ("tr-kimlik", "10000000146", "10000000147"),
        ("il-id", "123456782", "123456783"),
        ("ru-snils", "112-233-445 95", "112-233-445 96"),
        ("us-ssn", "219-09-9999", "666-09-9999"),
        ("uk-nino", "AB123456C", "GB123456C"),
    ],
)
def test_check_digits(check: str, good: str, bad: str) -> None:
    assert CHECKS[check](good.encode())
    assert not CHECKS[check](bad.encode())


@pytest.mark.parametrize("check", sorted(CHECKS))
@pytest.mark.parametrize("value", [b"", b"1", b"x" * 40, b"0" * 60, b"\xff" * 13])
def test_values_of_any_length_are_answered(check: str, value: bytes) -> None:
    (rule,) = [
        from_mapping(
            {"id": "r", "kind": "personal", "pattern": r"(?s)^.*$", "validators": [check],
             "profiles": ["pii"]}
        )
    ]  # fmt: skip
    Engine([rule]).find(value, "secrets+pii")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Write to erika.mustermann@mail-haus.de.", "erika.mustermann@mail-haus.de"),
        ("<jane@sub.mail.co.uk>", "jane@sub.mail.co.uk"),
        ("card: 4111 1111 1111 1111,", "4111 1111 1111 1111"),
        ("card=5500005555555559", "5500005555555559"),
        ("IBAN DE89 3704 0044 0532 0130 00 please", "DE89 3704 0044 0532 0130 00"),
        ("call +49 30 9018 20422 now", "+49 30 9018 20422"),
        ("Tel.: 030 / 9018-20422", "030 / 9018-20422"),
        ("(415) 701-3842", "(415) 701-3842"),
        ("SSN 219-09-9999", "219-09-9999"),
    ],
)
def test_what_is_personal_is_hidden(text: str, hidden: str) -> None:
    assert found(text) == [hidden]
    assert found(f'{{"a": "{text}"}}\n') == [hidden]


@pytest.mark.parametrize(
    "text",
    [
        "git clone git@github.com:grantfs/grantfs.git",
        "ssh://user@example.com/path  root@localhost",
        "@app.route('/x')\n@pytest.mark.parametrize",
        "y = a@b.T + x@self.weight",
        '"react": "17.0.2", "@types/node@20.1.4"',
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "550e8400-e29b-41d4-a716-446655440000",
        "1700000000 1700000000123 1700000000123456",
        "2026-11-26T16:55:14Z 12:30:45.123456",
        "192.168.100.200:8080 10.0.0.1/24 fe80::1ff:fe23:4567:890a",
        "0.123456789012345 1.7976931348623157e+308 -2147483648 4294967296",
        "ISBN 978-3-16-148410-0, DOI 10.1000/182, RFC 2119",
        "0x1234567890abcdef, 0b1010, 1_000_000_000",
        "+1 -1 +100 -200\n+1234567890 added line\n-1234567890 removed line",
        "@@ -120,7 +120,9 @@ def f():",
        "{ 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31 }",
        "version 2.31.1, build 20231126.4, port 5432-5440",
        "const PHONE_LABEL = 'phone number'; tel: null",
        "Copyright (C) 2001-2026",
        "pid 123456789 uid 4294967294 inode 4503599627370496",
    ],
)
def test_nothing_personal_in_code_and_text(text: str) -> None:
    assert found(text) == []
