"""Script and function words: a verdict where there is one, none where there is not."""

from __future__ import annotations

import pytest

from lodesmith.data.language import language, same_language, script

SENTENCES = {
    "english": "The wing of the aircraft is heated when it flies at high speed, and this changes its stiffness.",
    "german": "Der Flügel des Flugzeugs wird bei hoher Geschwindigkeit warm, und das ist nicht ohne Folgen für ihn.",
    "french": "Les ailes de l'avion sont chauffées par l'air, ce qui est une cause de la perte de leur rigidité.",
    "spanish": "El ala del avión se calienta cuando vuela a gran velocidad y por eso la rigidez es más pequeña.",
    "italian": "L'ala della nave non è fredda per il calore dell'aria, ma anche questo è una causa del problema.",
    "portuguese": "A asa do avião não é fria quando ele voa, e por isso a rigidez também é uma das causas do problema.",
    "dutch": "De vleugel van het vliegtuig wordt warm en dat is niet zonder gevolgen voor de stijfheid van het geheel.",
    "swedish": "Vingen på planet är varm när den flyger och det har inte varit till hjälp för att lösa problemet.",
    "polish": "Skrzydło samolotu nie jest zimne, a to oznacza, że dla nas jest to problem, który się nie kończy.",
    "russian": "Крыло самолёта не было холодным, и это для нас проблема, которая не кончается так же, как и раньше.",
    "ukrainian": "Крило літака не було холодним, і це є для нас проблема, що не закінчується так само, як до того.",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_is_enough(name: str) -> None:
    assert language(SENTENCES[name]) == name
    for other, text in SENTENCES.items():
        assert same_language(SENTENCES[name], text) == (name == other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", "latin"),
        ("привет мир", "cyrillic"),
        ("飛行機の翼は熱くなる", "japanese"),
        ("飞机的机翼会变热", "cjk"),
        ("비행기 날개", "hangul"),
        ("طائرة", "arabic"),
        ("12 + 3 = ∞", ""),
        ("ab вг", ""),
        ("", ""),
        ("SARS-CoV-2 вирус вызывает болезнь", "cyrillic"),
    ],
)
def test_scripts(text: str, expected: str) -> None:
    assert script(text) == expected


@pytest.mark.parametrize(
    "text", ["heat conduction composite slabs", "flutter similitude", "die", "de la que en un", ""]
)
def test_terms_give_no_verdict(text: str) -> None:
    assert language(text) == ""
    assert all(same_language(text, other) for other in ("heat", SENTENCES["german"]))


def test_another_script_is_another_language() -> None:
    assert not same_language("wing", "крыло")
    assert same_language("крыло", "хвост")
