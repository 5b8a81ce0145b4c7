//! Tokenizers against Hugging Face's own, whole against pieces, and what happens to files that are no tokenizer.

use std::path::Path;

use handloom_model::data::{Source, Split};
use handloom_model::tokenizer::{Tokenizer, TokenizerKind, TrainOptions, train};

/// Ids by the Python package `tokenizers` 0.23.3 from the tokenizer.json that Hugging Face publishes for GPT-2.
const GPT2: [(&str, &[u32]); 21] = [
    ("Hello world", &[15496, 995]),
    ("  two  spaces   three", &[220, 734, 220, 9029, 220, 220, 1115]),
    ("tabs\t\tand\n\n\nnewlines \n \n", &[8658, 82, 197, 197, 392, 628, 198, 3605, 6615, 220, 198, 220, 198]),
    (
        "I'll we've can't they'd I'm you're it's 'S",
        &[40, 1183, 356, 1053, 460, 470, 484, 1549, 314, 1101, 345, 821, 340, 338, 705, 50],
    ),
    ("naïve café", &[2616, 38776, 40304]),
    ("你好，世界", &[19526, 254, 25001, 121, 171, 120, 234, 10310, 244, 45911, 234]),
    (
        "🙂👩\u{200d}👩\u{200d}👧\u{200d}👦",
        &[8582, 25081, 41840, 102, 447, 235, 41840, 102, 447, 235, 41840, 100, 447, 235, 41840, 99],
    ),
    ("a<|endoftext|>b", &[64, 50256, 65]),
    ("   ", &[220, 220, 220]),
    ("\n", &[198]),
    (" ", &[220]),
    ("", &[]),
    ("3.14159 2026 ½ Ⅷ", &[18, 13, 1415, 19707, 1160, 2075, 25208, 2343, 227, 100]),
    ("e\u{301}\u{a0}x\u{3000}y", &[68, 136, 223, 1849, 87, 5099, 222, 88]),
    ("Ünïcödé\u{200b}zero", &[127, 250, 77, 26884, 66, 9101, 67, 2634, 9525, 22570]),
    ("مرحبا بالعالم", &[25405, 26897, 148, 255, 39848, 12919, 17550, 101, 23525, 44690, 23525, 25405]),
    ("\r\n\r\nx", &[201, 198, 201, 198, 87]),
    ("x\u{2028}y", &[87, 447, 101, 88]),
    ("____--==--", &[1427, 438, 855, 438]),
    ("aaaaaaaaaaaaaaaaaaaaaaaa", &[24794, 24794, 24794, 24794, 24794, 24794]),
    ("translate English", &[7645, 17660, 3594]),
];

fn document(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_document(text, &|_| ()).unwrap()
}

/// SplitMix64, for texts that are the same in every run.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Characters of every kind, much white space among them.
fn random_text(seed: u64, characters: usize) -> String {
    let mut state = seed;
    let mut text = String::new();
    while text.chars().count() < characters {
        let draw = random(&mut state);
        match draw % 8 {
            0 | 1 => text.push(
                [' ', '\n', '\t', '\r', '\u{a0}', '\u{3000}', '\u{2028}', ' '][(draw >> 8) as usize % 8],
            ),
            2 => text.push_str(["'s", "'re", "'", "''ll", "'D"][(draw >> 8) as usize % 5]),
            3 | 4 => text.push((b'!' + (draw >> 8) as u8 % 94) as char),
            5 => text.extend(char::from_u32((draw >> 8) as u32 % 0x800)),
            _ => text.extend(char::from_u32((draw >> 8) as u32 % 0x11_0000)),
        }
    }
    text
}

#[test]
fn gpt2_gives_the_ids_of_hugging_face() {
    let gpt2 = Tokenizer::embedded("gpt2").unwrap();
    assert_eq!((gpt2.vocab_size(), gpt2.end_of_text()), (50257, Some(50256)));
    for (text, ids) in GPT2 {
        assert_eq!(gpt2.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(document(&gpt2, text), ids, "{text:?} as a document");
        assert_eq!(gpt2.decode(ids).unwrap(), text);
    }
}

#[test]
fn any_text_comes_back() {
    for name in ["gpt2", "austen", "austen-2048"] {
        let tokenizer = Tokenizer::embedded(name).unwrap();
        for seed in 0..60 {
            let text = random_text(seed, 1 + seed as usize * 5);
            let ids = document(&tokenizer, &text);
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{name}, seed {seed}");
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        }
    }
}

#[test]
fn a_document_in_pieces_has_the_ids_of_the_whole() {
    // Above 64 KiB a document is cut. The whole goes the general way of the `tokenizers` crate, pieces the short way.
    let mut texts: Vec<String> = (0..4).map(|seed| random_text(1000 + seed, 60_000)).collect();
    texts.push(format!("{}<|endoftext|>{}", texts[0], texts[1]));
    Source::Austen(Split::Valid)
        .for_documents(|novels, _| {
            texts.extend(novels.iter().map(|novel| novel.text.repeat(4)));
            Ok(())
        })
        .unwrap();
    for name in ["gpt2", "austen"] {
        let tokenizer = Tokenizer::embedded(name).unwrap();
        for text in &texts {
            let done = std::sync::atomic::AtomicU64::new(0);
            let count = |bytes| {
                done.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            };
            let ids = tokenizer.encode_document(text, &count).unwrap();
            assert!(ids == tokenizer.encode(text).unwrap(), "{name}: {:?}...", text.get(..40));
            assert_eq!(done.into_inner(), text.len() as u64);
        }
    }
}

#[test]
fn a_stream_never_splits_a_character() {
    for name in ["gpt2", "austen"] {
        let tokenizer = Tokenizer::embedded(name).unwrap();
        for text in GPT2.iter().map(|(text, _)| (*text).to_owned()).chain((0..20).map(|s| random_text(s, 80)))
        {
            let mut stream = tokenizer.decode_stream();
            let mut joined = String::new();
            for id in tokenizer.encode(&text).unwrap() {
                let piece = stream.push(id).unwrap();
                assert!(!piece.contains('\u{fffd}') || text.contains('\u{fffd}'), "{piece:?} of {text:?}");
                joined += &piece;
            }
            joined += &stream.finish().unwrap();
            assert_eq!(joined, text, "{name}");
        }
    }
    // The first two bytes of "你": nothing until the end, then the sign for bytes that are no character.
    let gpt2 = Tokenizer::embedded("gpt2").unwrap();
    let mut stream = gpt2.decode_stream();
    assert_eq!(stream.push(19526).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
}

fn novels() -> Vec<String> {
    let mut texts = Vec::new();
    Source::Austen(Split::Valid)
        .for_documents(|novels, _| {
            texts.extend(novels.iter().map(|novel| novel.text.clone()));
            Ok(())
        })
        .unwrap();
    texts
}

fn trained(kind: TokenizerKind, vocab_size: usize) -> Tokenizer {
    train(novels(), &TrainOptions { kind, vocab_size, special: Vec::new(), show_progress: false }).unwrap()
}

#[test]
fn each_kind_trains_saves_and_loads() {
    let text = "Elinor was to be the comforter of others.";
    for (kind, name, end, shown) in [
        (TokenizerKind::Bpe, "BPE", "<|endoftext|>", text.to_owned()),
        (TokenizerKind::WordPiece, "WordPiece", "[SEP]", text.to_lowercase()),
        (TokenizerKind::Unigram, "Unigram", "</s>", text.to_owned()),
    ] {
        let tokenizer = trained(kind, 1000);
        assert_eq!((tokenizer.kind(), tokenizer.vocab_size()), (name, 1000));
        assert_eq!(tokenizer.end_of_text(), tokenizer.token_to_id(end));
        let ids = tokenizer.encode(text).unwrap();
        assert!(ids.len() < 30, "{name}: {} ids, so words were not learned", ids.len());
        assert_eq!(tokenizer.decode_plain(&ids).unwrap(), shown, "{name}");
        if kind != TokenizerKind::Bpe {
            assert_eq!(ids.last().copied(), tokenizer.end_of_text(), "{name} ends a text");
        }
        let long = novels().concat();
        let specials = usize::from(kind == TokenizerKind::WordPiece);
        let whole = tokenizer.encode(&long).unwrap();
        let plain = &whole[specials..whole.len() - usize::from(kind != TokenizerKind::Bpe)];
        assert!(document(&tokenizer, &long) == plain, "{name}: pieces differ from the whole");

        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(&dir.path().join("new")).unwrap();
        let loaded = Tokenizer::load(&dir.path().join("new")).unwrap();
        assert_eq!(loaded.fingerprint(), tokenizer.fingerprint());
        assert_eq!(loaded.encode(text).unwrap(), ids);
    }
}

#[test]
fn the_embedded_tokenizer_is_what_training_gives() {
    let mut texts = Vec::new();
    let mut add = |novels: &[handloom_model::data::Document], _| {
        texts.extend(novels.iter().map(|novel| novel.text.clone()));
        Ok(())
    };
    Source::Austen(Split::Train).for_documents(&mut add).unwrap();
    let options = TrainOptions {
        kind: TokenizerKind::Bpe,
        vocab_size: 2048,
        special: Vec::new(),
        show_progress: false,
    };
    let again = train(texts, &options).unwrap();
    assert_eq!(again.fingerprint(), Tokenizer::embedded("austen-2048").unwrap().fingerprint());
}

#[test]
fn old_and_other_layouts_load() {
    let dir = tempfile::tempdir().unwrap();
    // Before tokenizers 0.9 the model did not name its type (T5's published file is such a one).
    for kind in [TokenizerKind::Bpe, TokenizerKind::WordPiece, TokenizerKind::Unigram] {
        let tokenizer = trained(kind, 600);
        let mut json: serde_json::Value = serde_json::from_str(&tokenizer.to_json()).unwrap();
        assert!(json["model"].as_object_mut().unwrap().remove("type").is_some());
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, json.to_string()).unwrap();
        assert_eq!(Tokenizer::load(&path).unwrap().fingerprint(), tokenizer.fingerprint(), "{kind:?}");
    }
    let vocab = dir.path().join("vocab.txt");
    std::fs::write(&vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nwor\n##ld\n!\n").unwrap();
    let bert = Tokenizer::load(&vocab).unwrap();
    // "Hello" is lowered, "world" is wor + ##ld, "Zebra" unknown; [CLS] 2 and [SEP] 3 around.
    assert_eq!(bert.encode("Hello world! Zebra").unwrap(), [2, 5, 6, 7, 8, 1, 3]);
    std::fs::write(&vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nHello\n").unwrap();
    assert_eq!(Tokenizer::load(&vocab).unwrap().encode("Hello hello").unwrap(), [2, 6, 5, 3]);
}

#[test]
fn errors_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let message = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        Tokenizer::load(&path).unwrap_err().to_string()
    };
    assert!(message("a.json", b"{\"vocab\": {}}").contains("a.json: no \"model\" in it"));
    assert!(message("b.json", b"{\"model\": ").contains("b.json: not JSON: EOF"));
    assert!(message("c.json", b"ab\xff").contains("not UTF-8 at byte 2"));
    assert!(
        message("d.json", b"{\"model\": {\"type\": \"BPE\"}}")
            .contains("its BPE model or its rules cannot be read")
    );
    assert!(message("vocab.txt", b"one\ntwo\n").contains("no [UNK] among its 2 lines"));
    let missing = Tokenizer::open("gpt-2").unwrap_err().to_string();
    assert!(
        missing.contains("the embedded tokenizers are austen, austen-2048, austen-wordpiece, gpt2"),
        "{missing}"
    );
    let empty = tempfile::tempdir().unwrap();
    let error = Tokenizer::load(empty.path()).unwrap_err().to_string();
    assert!(error.contains("neither tokenizer.json nor vocab.txt"), "{error}");
    assert!(Tokenizer::load(Path::new("no/such/tokenizer.json")).is_err());

    let gpt2 = Tokenizer::embedded("gpt2").unwrap();
    let error = gpt2.decode(&[1, 50257]).unwrap_err().to_string();
    assert!(error.contains("id 50257 at position 1 is not in the vocabulary of 50257 tokens"), "{error}");
    let small =
        TrainOptions { kind: TokenizerKind::Bpe, vocab_size: 100, special: Vec::new(), show_progress: false };
    let error = train(["some text".to_owned()], &small).unwrap_err().to_string();
    assert!(error.contains("a vocabulary of 100 is too small; this kind needs at least 257"), "{error}");
    let large = TrainOptions { vocab_size: 5000, ..small.clone() };
    let error = train(["some text some text".to_owned()], &large).unwrap_err().to_string();
    assert!(error.contains("where 5000 were asked for"), "{error}");
    let error = train([" ".to_owned()], &large).unwrap_err().to_string();
    assert!(error.contains("the texts are empty"), "{error}");
}
