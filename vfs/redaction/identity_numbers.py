"""Check digits and forms of personal numbers: each takes the matched bytes and says if they can be
one. Pure functions; separators are looked through. Unlike a provider's key, a number of the right
length is all over code and data, so here a wrong check digit does drop a match.
"""

from collections.abc import Callable, Sequence

Check = Callable[[bytes], bool]

_VERHOEFF_D = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_VERHOEFF_P = (
    "0123456789", "1576283094", "5803796142", "8916043527",
    "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip
_CARD_LENGTHS = {"3": (14, 15, 16), "4": (13, 16, 19), "5": (16,), "2": (16,), "6": (16, 19)}
_IBAN_LENGTHS = {
    15: "NO", 16: "BE BI", 18: "DK FI FO GL NL SD", 19: "MK SI FK", 20: "AT BA EE KZ LT LU XK MN",
    21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG DZ", 25: "LY PT ST", 26: "IS TR",
    27: "FR GR IT MC MR SM BF", 28: "AL AZ BY CY DO GT HN HU LB PL SV NI SN", 29: "BR EG PS QA UA",
    30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
_COUNTRIES = {code: size for size, codes in _IBAN_LENGTHS.items() for code in codes.split()}
_ODD = dict(
    zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3,
         6, 8, 12, 14, 16, 10, 22, 25, 24, 23), strict=True)
)  # fmt: skip
_TOP_LEVEL = frozenset(
    b"com org net edu gov mil int info biz name pro museum aero coop jobs mobi tel travel cat asia"
    b" app dev cloud online tech xyz site store shop email blog agency company group health bank"
    b" systems solutions services network digital media studio world today life live news team"
    b" software academy school university consulting ltd llc gmbh berlin london paris nyc".split()
)
_NO_PERSON = (
    b"git", b"noreply", b"no-reply", b"donotreply", b"user", b"username", b"example", b"test",
    b"foo", b"bar", b"root", b"admin", b"postmaster", b"hostmaster", b"webmaster", b"you",
    b"your", b"email", b"name", b"someone", b"nobody", b"me", b"hg", b"svn", b"cvs",
)  # fmt: skip
_NO_DOMAIN = (b"example", b"test", b"localhost", b"invalid", b"domain", b"host", b"yourdomain",
              b"mydomain", b"company", b"server", b"email", b"foo", b"bar")  # fmt: skip


def _digits(value: bytes) -> list[int]:
    return [byte - 48 for byte in value if 48 <= byte <= 57]


def _plain(value: bytes) -> str:
    return "".join(chr(byte) for byte in value if chr(byte).isalnum()).upper()


def _weighted(digits: Sequence[int], weights: Sequence[int]) -> int:
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=False))


def _luhn(digits: Sequence[int]) -> bool:
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return len(digits) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _date(year: int, month: int, day: int) -> bool:
    return year >= 0 and 1 <= month <= 12 and 1 <= day <= 31


def email(value: bytes) -> bool:
    """An address that may be a person's: a real top-level domain, no stand-in, no service."""
    local, _, domain = value.lower().rpartition(b"@")
    *_, top = domain.split(b".")
    real = top in _TOP_LEVEL or (len(top) == 2 and top.isalpha())
    second = domain.split(b".")[-2]
    return real and local not in _NO_PERSON and second not in _NO_DOMAIN


def card(value: bytes) -> bool:
    """A payment card: issuer's range and length, and ISO/IEC 7812-1's check digit."""
    digits = _digits(value)
    text = "".join(map(str, digits))
    if len(set(digits)) < 2 or len(text) not in _CARD_LENGTHS.get(text[:1], ()):
        return False
    head2, head4 = int(text[:2]), int(text[:4])
    issued = (
        text[0] == "4" or 51 <= head2 <= 55 or 2221 <= head4 <= 2720 or head2 in (34, 37, 35, 36)
        or head2 in (38, 39, 60, 62, 64, 65) or 3000 <= head4 <= 3059
    )  # fmt: skip
    return issued and _luhn(digits)


def iban(value: bytes) -> bool:
    """An IBAN: its country's length and ISO 13616's check digits."""
    text = _plain(value)
    if _COUNTRIES.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def phone(value: bytes) -> bool:
    """From 8 to 15 digits (ITU-T E.164), not all alike."""
    digits = _digits(value)
    return 8 <= len(digits) <= 15 and len(set(digits)) > 2


def us_ssn(value: bytes) -> bool:
    """United States social security number: no area, group or serial that is never given."""
    text = _plain(value)
    area, group, serial = text[:3], text[3:5], text[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def us_itin(value: bytes) -> bool:
    """United States individual taxpayer number: 9xx and a group that is given."""
    text = _plain(value)
    return text[0] == "9" and (50 <= int(text[3:5]) <= 99) and text[3:5] not in ("89", "93", "66")


def uk_nino(value: bytes) -> bool:
    """United Kingdom national insurance number: prefixes that are given."""
    text = _plain(value)
    return text[0] not in "DFIQUV" and text[1] not in "DFIQUVO" and text[:2] not in (
        "BG", "GB", "KN", "NK", "NT", "TN", "ZZ",
    )  # fmt: skip


def uk_nhs(value: bytes) -> bool:
    """NHS number: modulus 11."""
    digits = _digits(value)
    check = 11 - _weighted(digits, range(10, 1, -1)) % 11
    return len(digits) == 10 and check % 11 == digits[9] and len(set(digits)) > 2


def ca_sin(value: bytes) -> bool:
    """Canadian social insurance number: Luhn."""
    digits = _digits(value)
    return len(digits) == 9 and digits[0] not in (0, 8) and _luhn(digits)


def de_tax_id(value: bytes) -> bool:
    """German Steuer-Identifikationsnummer: ISO/IEC 7064 mod 11,10, one digit repeated."""
    digits = _digits(value)
    if len(digits) != 11 or digits[0] == 0 or len(set(digits[:10])) not in (8, 9):
        return False
    product = 10
    for digit in digits[:10]:
        product = (digit + product) % 10 or 10
        product = product * 2 % 11
    return (11 - product) % 10 == digits[10]


def fr_nir(value: bytes) -> bool:
    """French NIR: key modulo 97, with Corsica's letters."""
    text = _plain(value)
    number = text[:13].replace("2A", "19").replace("2B", "18")
    return number.isdigit() and text[13:].isdigit() and 97 - int(number) % 97 == int(text[13:])


def it_cf(value: bytes) -> bool:
    """Italian codice fiscale: check letter."""
    text = _plain(value)
    total = sum(_ODD[char] for char in text[:15:2])
    total += sum(int(char, 36) - (10 if char.isalpha() else 0) for char in text[1:15:2])
    return chr(65 + total % 26) == text[15]


def es_dni(value: bytes) -> bool:
    """Spanish DNI or NIE: check letter modulo 23."""
    text = _plain(value)
    number = text[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return number.isdigit() and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


def pl_pesel(value: bytes) -> bool:
    """Polish PESEL: weights 1 3 7 9, and a date."""
    digits = _digits(value)
    month = (digits[2] * 10 + digits[3]) % 20
    check = -_weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10
    return _date(0, month, digits[4] * 10 + digits[5]) and check == digits[10]


def nl_bsn(value: bytes) -> bool:
    """Dutch BSN: the eleven test."""
    digits = _digits(value)
    total = _weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1))
    return len(digits) == 9 and total % 11 == 0 and total > 0


def se_pnr(value: bytes) -> bool:
    """Swedish personnummer: a date (60 more for co-ordination numbers) and Luhn."""
    digits = _digits(value)[-10:]
    day = (digits[4] * 10 + digits[5]) % 60
    return _date(0, digits[2] * 10 + digits[3], day) and _luhn(digits)


def fi_hetu(value: bytes) -> bool:
    """Finnish henkilötunnus: check character modulo 31."""
    text = value.decode("latin-1").upper()
    number = text[:6] + text[7:10]
    if not number.isdigit() or not _date(0, int(text[2:4]), int(text[:2])):
        return False
    return "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(number) % 31] == text[10]


def no_fnr(value: bytes) -> bool:
    """Norwegian fødselsnummer: two check digits modulo 11."""
    digits = _digits(value)
    first = -_weighted(digits, (3, 7, 6, 1, 8, 9, 4, 5, 2)) % 11
    second = -_weighted(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return (first, second) == (digits[9], digits[10]) and len(set(digits)) > 2


def be_nn(value: bytes) -> bool:
    """Belgian national number: modulo 97, before and after 2000."""
    text = "".join(map(str, _digits(value)))
    number, check = text[:9], int(text[9:])
    return check in (97 - int(number) % 97, 97 - int("2" + number) % 97)


def br_cpf(value: bytes) -> bool:
    """Brazilian CPF: two check digits modulo 11."""
    digits = _digits(value)
    first = _weighted(digits, range(10, 1, -1)) * 10 % 11 % 10
    second = _weighted(digits, range(11, 1, -1)) * 10 % 11 % 10
    return (first, second) == (digits[9], digits[10]) and len(set(digits)) > 2


def br_cnpj(value: bytes) -> bool:
    """Brazilian CNPJ: two check digits modulo 11."""
    digits = _digits(value)
    weights = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)

    def check(size: int) -> int:
        rest = _weighted(digits[:size], weights[-size:]) % 11
        return 0 if rest < 2 else 11 - rest

    return (check(12), check(13)) == (digits[12], digits[13]) and len(set(digits)) > 2


def ar_cuit(value: bytes) -> bool:
    """Argentine CUIT or CUIL: modulus 11."""
    digits = _digits(value)
    check = -_weighted(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return check == digits[10]


def cl_rut(value: bytes) -> bool:
    """Chilean RUT: modulus 11 with K."""
    text = _plain(value)
    total = sum(int(char) * (2 + at % 6) for at, char in enumerate(reversed(text[:-1])))
    return "0123456789K0"[-total % 11] == text[-1] or (-total % 11 == 10 and text[-1] == "K")


def in_aadhaar(value: bytes) -> bool:
    """Indian Aadhaar: Verhoeff, not beginning with 0 or 1."""
    digits = _digits(value)
    check = 0
    for at, digit in enumerate(reversed(digits)):
        check = int(_VERHOEFF_D[check][int(_VERHOEFF_P[at % 8][digit])])
    return len(digits) == 12 and digits[0] > 1 and check == 0 and len(set(digits)) > 2


def cn_id(value: bytes) -> bool:
    """Chinese resident identity number: ISO 7064 mod 11-2, and a date."""
    text = _plain(value)
    total = _weighted(
        [int(c) for c in text[:17]], (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    )
    dated = _date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    return dated and "10X98765432"[total % 11] == text[17]


def jp_my_number(value: bytes) -> bool:
    """Japanese My Number: modulus 11."""
    digits = _digits(value)
    rest = _weighted(digits, (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return len(digits) == 12 and (0 if rest <= 1 else 11 - rest) == digits[11]


def kr_rrn(value: bytes) -> bool:
    """Korean resident registration number: a date and a modulus 11."""
    digits = _digits(value)
    check = (11 - _weighted(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10
    return _date(0, digits[2] * 10 + digits[3], digits[4] * 10 + digits[5]) and check == digits[12]


def sg_nric(value: bytes) -> bool:
    """Singaporean NRIC or FIN: check letter."""
    text = _plain(value)
    total = _weighted([int(char) for char in text[1:8]], (2, 7, 6, 5, 4, 3, 2))
    total += {"T": 4, "G": 4, "M": 3}.get(text[0], 0)
    letters = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "G": "XWUTRQPNMLK"}
    return letters.get(text[0], "XWUTRQPNJLK")[total % 11] == text[8]


def au_tfn(value: bytes) -> bool:
    """Australian tax file number: modulus 11."""
    digits = _digits(value)
    return len(digits) == 9 and _weighted(digits, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def au_medicare(value: bytes) -> bool:
    """Australian Medicare number: modulus 10."""
    digits = _digits(value)
    return 2 <= digits[0] <= 6 and _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9)) % 10 == digits[8]


def za_id(value: bytes) -> bool:
    """South African identity number: a date and Luhn."""
    digits = _digits(value)
    dated = _date(0, digits[2] * 10 + digits[3], digits[4] * 10 + digits[5])
    return len(digits) == 13 and dated and digits[10] in (0, 1, 2) and _luhn(digits)


def tr_kimlik(value: bytes) -> bool:
    """Turkish kimlik number: two check digits."""
    digits = _digits(value)
    tenth = (7 * sum(digits[:9:2]) - sum(digits[1:8:2])) % 10
    return len(digits) == 11 and digits[0] > 0 and (tenth, sum(digits[:10]) % 10) == (
        digits[9], digits[10],
    )  # fmt: skip


def il_id(value: bytes) -> bool:
    """Israeli identity number: Luhn."""
    digits = _digits(value)
    return len(digits) == 9 and _luhn(digits) and len(set(digits)) > 2


def ru_snils(value: bytes) -> bool:
    """Russian SNILS: modulus 101."""
    digits = _digits(value)
    total = _weighted(digits, range(9, 0, -1)) % 101 % 100
    return total == digits[9] * 10 + digits[10] and len(set(digits)) > 2


def th_id(value: bytes) -> bool:
    """Thai identity number: modulus 11."""
    digits = _digits(value)
    return (11 - _weighted(digits, range(13, 1, -1)) % 11) % 10 == digits[12] and digits[0] > 0


CHECKS: dict[str, Check] = {
    "email": email, "card": card, "iban": iban, "phone": phone, "us-ssn": us_ssn,
    "us-itin": us_itin, "uk-nino": uk_nino, "uk-nhs": uk_nhs, "ca-sin": ca_sin,
    "de-tax-id": de_tax_id, "fr-nir": fr_nir, "it-cf": it_cf, "es-dni": es_dni,
    "pl-pesel": pl_pesel, "nl-bsn": nl_bsn, "se-pnr": se_pnr, "fi-hetu": fi_hetu,
    "no-fnr": no_fnr, "be-nn": be_nn, "br-cpf": br_cpf, "br-cnpj": br_cnpj, "ar-cuit": ar_cuit,
    "cl-rut": cl_rut, "in-aadhaar": in_aadhaar, "cn-id": cn_id, "jp-my-number": jp_my_number,
    "kr-rrn": kr_rrn, "sg-nric": sg_nric, "au-tfn": au_tfn, "au-medicare": au_medicare,
    "za-id": za_id, "tr-kimlik": tr_kimlik, "il-id": il_id, "ru-snils": ru_snils, "th-id": th_id,
}  # fmt: skip
