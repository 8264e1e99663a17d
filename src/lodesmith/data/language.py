"""Are two texts in the same language? A small test by script and function words, which may abstain.

Function words are the most frequent words of running text and hardly depend on its subject, so a few dozen of them
tell languages of one script apart once a text has a sentence or two (Grefenstette, "Comparing two language
identification schemes", 1995). The limits: languages of one script whose words are not listed are not told apart, nor
are close relatives (Norwegian and Danish); a text of a few words, of names or of terms gives no verdict; where a
Chinese or Japanese query consists of Latin names alone, its script misleads.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

__all__ = ["language", "same_language", "script"]

_WORD = re.compile(r"[^\W\d_]+")
_MAIN = 0.6  # share of the letters that makes a script the text's own
_KANA = 0.1  # share of kana that makes a text of Chinese characters Japanese
_HITS = 3  # function words below which no language is named
_SHARE = 0.1  # and their share of all words

_FUNCTION_WORDS = {
    "english": "the of and to in is that it for was on are with as his they be at this have from or by not but what "
    "all were when we there can an your which their if will would who has more been its than how does do why these",
    "german": "der die und das den von zu mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er "
    "hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war wurde oder aber kann",
    "french": "de la le et les des en un une du que est pour qui dans par au sur pas plus ce il sont avec ne se aux "
    "cette ou son mais comme nous leur été être sa ces elle ont peut deux même entre",
    "spanish": "de la que el en y los se del las un por con una su para es al lo como más pero sus le ha este cuando "
    "entre sobre también desde todo son fue está muy hasta donde qué cómo",
    "italian": "di e il la che in un è per una sono del con si da della le non dei al nel più gli alla come anche ma "
    "delle lo essere questo ha se tra era nella dal cui loro",
    "portuguese": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao das à seu "
    "sua ou ser quando são pelo isso ela entre era também",
    "dutch": "de het een van en in is dat op te zijn met voor niet aan er die ook als door over bij uit maar om dan "
    "nog naar wordt worden heeft hij deze kan wat of hun",
    "swedish": "och att det i en som på är av för med den till inte om ett han men var jag sig från vi så kan när än "
    "de har hade eller vid efter denna",
    "polish": "w i na z do się nie że jest to o jak od po przez za dla ale są oraz co tym może ze być który która przy",
    "russian": "и в не на что с по как это из но за для от к так его же было был она они мы при или бы быть до если",
    "ukrainian": "і в не на що з та як це до за для від але його був є ми при або якщо були їх також після ця",
}
_LISTED = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}


def same_language(text: str, reference: str) -> bool:
    """False where script or language of the two are known and differ; True also where there is no verdict."""
    scripts = script(text), script(reference)
    if all(scripts) and scripts[0] != scripts[1]:
        return False
    languages = language(text), language(reference)
    return not all(languages) or languages[0] == languages[1]


@lru_cache(maxsize=64)  # a document is asked about with each of its questions
def script(text: str) -> str:
    """The script of most letters, by its Unicode name in lower case, such as `latin`; empty where none prevails.

    Chinese characters are `cjk`, with kana among them `japanese`.
    """
    counts = Counter(filter(None, map(_script_of, text)))
    kana = counts["hiragana"] + counts["katakana"]
    if kana and kana >= _KANA * (kana + counts["cjk"]):
        counts["japanese"] = kana + counts.pop("cjk", 0)
    if not (total := sum(counts.values()) - (kana if "japanese" in counts else 0)):
        return ""
    name, most = counts.most_common(1)[0]
    return name if most >= _MAIN * total else ""


@lru_cache(maxsize=1 << 14)
def _script_of(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0].lower() if character.isalpha() else ""


@lru_cache(maxsize=64)
def language(text: str) -> str:
    """The language whose function words make up most of a text, such as `english`; empty where that is not clear."""
    words = [word.lower() for word in _WORD.findall(text)]
    hits = Counter({name: sum(word in listed for word in words) for name, listed in _LISTED.items()})
    (name, most), (_, second) = hits.most_common(2)
    clear = most >= _HITS and most >= _SHARE * len(words) and most >= 1.5 * second
    return name if clear else ""
