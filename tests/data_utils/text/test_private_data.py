"""Planted private data in both languages: all masked; numbers that are no such thing stay."""

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_utils.text.private_data import is_card, is_chinese_id, mask_private

PLANTED = [
    ("Write to john.smith+news@gmail.com today.", "[EMAIL]", "john.smith"),
    ("Contact: j_doe99@mail.uni-koeln.de!", "[EMAIL]", "j_doe99"),
    ("请联系 zhang_wei@163.com，谢谢。", "[EMAIL]", "zhang_wei"),
    ("邮箱：12345678@qq.com。", "[EMAIL]", "12345678"),
    ("邮箱是li.lei@pku.edu.cn，", "[EMAIL]", "li.lei"),
    ("mail me: anna (at) firma.de", "[EMAIL]", "anna"),
    ("我的手机是13812345678。", "[PHONE]", "13812345678"),
    ("打电话 138-1234-5678 找我", "[PHONE]", "1234-5678"),
    ("手机：+86 159 8765 4321，随时", "[PHONE]", "8765"),
    ("手机+8617712345678", "[PHONE]", "17712345678"),
    ("办公室电话：010-62751234", "[PHONE]", "62751234"),
    ("座机 (021) 54321098 转 3", "[PHONE]", "54321098"),
    ("热线电话0755-26543210。", "[PHONE]", "26543210"),
    ("Call me at (415) 867-5309 tonight", "[PHONE]", "867-5309"),
    ("Phone: 212-736-5000", "[PHONE]", "736-5000"),
    ("my number is +1 650 253 0000.", "[PHONE]", "253"),
    ("Tel +44 20 7946 0958", "[PHONE]", "7946"),
    ("Telefon +49 (0)221 4703888", "[PHONE]", "4703888"),
    ("tel: 5551234567", "[PHONE]", "5551234567"),
    ("身份证号：11010519491231002X。", "[ID]", "1949"),
    ("他的身份证号码是440308199901010012，", "[ID]", "440308"),
    ("ID 11010519491231002x.", "[ID]", "1949"),
    ("身份证 110105491231002", "[ID]", "110105"),
    ("SSN 536-22-8726", "[ID]", "536-22"),
    ("Card 4111 1111 1111 1111, exp 12/27", "[CARD]", "4111"),
    ("银行卡号6222021001116245702", "[CARD]", "6222"),
    ("Visa 4012888888881881.", "[CARD]", "4012"),
    ("Amex 3782-822463-10005", "[CARD]", "3782"),
    ("IBAN DE89 3704 0044 0532 0130 00", "[CARD]", "3704"),
    ("Login from 114.247.50.21 failed", "[IP]", "114.247"),
    ("服务器地址是 203.119.206.77。", "[IP]", "203.119"),
    ("from 2a03:2880:f12f:83:face:b00c:0:25de port", "[IP]", "2a03"),
    ("aws AKIAIOSFODNN7EXAMPLE here", "[KEY]", "AKIA"),
    ("export OPENAI_API_KEY=sk-proj-a1B2c3D4e5F6g7H8i9J0k1L2", "[KEY]", "a1B2"),
    ("token ghp_16C7e42F292c6912E7710c838347Ae178B4a", "[KEY]", "16C7"),
    ("阿里云 LTAI5tKmQ9vXw2Zr8Yb3Nc4d", "[KEY]", "5tKm"),
    ("slack xoxb-123456789012-abcDEF123456", "[KEY]", "abcDEF"),
    ("google AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q", "[KEY]", "SyA1"),
    # No digit stands before a letter in these.
    ("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", "[KEY]", "CoNi"),
    ("AKIAIOSFODNNEXAMPL23", "[KEY]", "IOSF"),
    ("密钥 sk-abcdefghijklmnopqrstuvwxyzabcdef。", "[KEY]", "abcdef"),
    ("npm_abcdefghijklmnopqrstuvwxyzabcdefghij", "[KEY]", "abcdef"),
    ('password = "hunter2hunter2"', "[KEY]", "hunter2"),
    ("密码：Abc12345xyz", "[KEY]", "Abc12345"),
    ("Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P", "[KEY]", "eyJ"),
    (
        "PEM:\n-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,2AF25325A9B318F3\n\n"
        f"{'MIIEpAIBAAKCAQEA' * 4}\n{'MIIEpAIBAAKCAQEA' * 4}\nMIIE==\n-----END RSA PRIVATE KEY-----\nend",
        "[KEY]",
        "MIIE",
    ),
    (f'"-----BEGIN PRIVATE KEY-----\\n{"MIIEvQ" * 9}\\nMIIE=\\n-----END PRIVATE KEY-----\\n"', "[KEY]", "MIIE"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1b2c3\n-----END RSA PRIVATE KEY-----", "[KEY]", "MIIE"),
    ("加我QQ：123456789", "[ACCOUNT]", "123456789"),
    ("微信号：zhangsan_2020，", "[ACCOUNT]", "zhangsan"),
]

CLEAN = [
    "In 1984 there were 1,234,567 people, 3.14159265 percent and 10000000000 stars.",
    "订单号 20240102123456789，金额 12345.67 元，2024-01-02 12:34:56。",
    "ISBN 978-7-302-12345-6, version 1.2.3.4, section 3.2.1.1, localhost 127.0.0.1, LAN 192.168.1.10.",
    "See user@example.com, git@github.com:a/b.git, @somebody and icon@2x.png.",
    "-rw-r--r-- root/root 3526 2021-07-25 20:43 .bashrc; ::ffff:127.0.0.0/104 [::1]:25 ::1:123; see @domain.com",
    "π = 3.14159265358979323846264338327950288",
    "timestamps 1700000000 and 1700000000123; sha 3f786850e387550fdab836ed7e6dc881de23001b",
    "身份证号要保密，密码不要告诉别人，手机号码也是。",
    "password: your_password_here; api_key = os.environ",
    "公元前221年秦始皇统一中国，1949年10月1日中华人民共和国成立，人口14.1亿。",
    "The ratio is 16:9, the time 12:34:56, std::vector::iterator, IPv6 ::1.",
    "1234567890123456 is no card; 110105194912310021 is no identity number.",
    "计算 12345678 + 87654321 = 99999999；12 34 56 78 90",
    "1939-1945, 1914-1918, pages 1234-5678, 2020-2021-2022",
]


@pytest.mark.parametrize(("text", "mask", "secret"), PLANTED)
def test_planted_private_data_is_masked(text, mask, secret):
    masked = mask_private(text)
    assert mask in masked
    assert secret not in masked
    assert mask_private(masked) == masked


@pytest.mark.parametrize("text", CLEAN)
def test_other_numbers_stay(text):
    assert mask_private(text) == text


def test_what_stands_around_stays():
    assert mask_private("请打13812345678或写信到a.b@163.com，谢谢！") == "请打[PHONE]或写信到[EMAIL]，谢谢！"
    assert mask_private("(415) 867-5309 and 114.247.50.21, ok?") == "[PHONE] and [IP], ok?"


@pytest.mark.slow
def test_false_alarms_on_clean_text_are_below_one_percent(clean_texts):
    changed = [text for text in clean_texts if mask_private(text) != text]
    print(f"private data: {len(changed)} masked in {len(clean_texts)} clean texts")
    assert len(changed) < 0.01 * len(clean_texts)


@given(st.from_regex(r"[1-9][0-9]{5}(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|1[0-9]|2[0-8])[0-9]{3}", fullmatch=True))
def test_the_check_digit_of_an_identity_number_decides(number):
    digits = [digit for digit in "0123456789X" if is_chinese_id(number + digit)]
    assert len(digits) == 1


@pytest.mark.parametrize("number", ["11010519491231002X", "440308199901010012", "360426199101010071"])
def test_right_identity_numbers_are_found_and_impossible_dates_are_not(number):
    assert is_chinese_id(number) and is_chinese_id(number.lower())
    assert not is_chinese_id(number[:10] + "13" + number[12:])


@given(st.integers(10**14, 10**15 - 1))
def test_the_check_digit_of_a_card_decides(number):
    assert sum(is_card(f"4{number}{digit}") for digit in range(10)) == 1


@pytest.mark.parametrize("kept", ["`. The rest tells how to make one, 怎样生成密钥。", "\nis how a file begins.\n" * 3])
def test_a_text_that_mentions_the_head_of_a_key_keeps_the_rest(kept):
    assert mask_private(f"It begins with `-----BEGIN RSA PRIVATE KEY-----{kept}") == f"It begins with `[KEY]{kept}"


def test_a_key_without_its_end_is_masked_as_far_as_it_goes():
    lines = "\n".join(["MIIEpAIBAAKCAQEA" * 4] * 20)
    text = f"-----BEGIN PRIVATE KEY-----\n{lines}\n\nThat was it."
    assert mask_private(text) == "[KEY]\n\nThat was it."
    assert len(mask_private("-----BEGIN PRIVATE KEY-----" + "A" * 10**6 + " -----END")) < 20  # and in no time
    assert mask_private("-----BEGIN PRIVATE KEY-----" + "\n " * 10**6 + "end").startswith("[KEY]\n ")


KEYS = [
    "hf_" + "aB" * 15,
    "AKIA" + "Z" * 16,
    "LTAI" + "q" * 12,
    "xoxb-" + "a" * 10,
    "sk-" + "b" * 20,
    "npm_" + "c" * 36,
]
OTHERS = ["tea ", "茶", "\n", "word-with_many.parts ", "1234567 ", "x" * 20]


@given(st.lists(st.sampled_from([*KEYS, *OTHERS]), max_size=8), st.integers(0, 8))
def test_signs_of_a_key_miss_none(parts, cut):
    for text in ("".join(parts[:cut]), " ".join(parts[cut:])):
        with patch("data_utils.text.private_data.KEY_SIGNS", ("",)):  # which every text holds
            expected = mask_private(text)
        assert mask_private(text) == expected
