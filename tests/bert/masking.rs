//! What masking draws: the shares, the exact draws of a seed, and what must never happen.

use handloom_engine::ops::cross_entropy::IGNORE_INDEX;
use handloom_model::config::ObjectiveConfig;
use handloom_model::objective::{Draw, Masking};
use handloom_model::tokenizer::{Tokenizer, TokenizerKind, TrainOptions, train};

const VOCAB: usize = 4096;
const MASK: i32 = 4;
const SPECIAL: [i32; 5] = [0, 1, 2, 3, 4];

const EXACT: [&[(usize, i32, i32)]; 3] = [
    &[(5, 4, 104), (7, 4, 106), (10, 4, 109), (14, 4, 113), (21, 4, 120), (28, 4, 127), (38, 4, 137)],
    &[(8, 1023, 107), (9, 4, 108), (15, 4, 114), (23, 4, 122), (28, 4, 127), (29, 4, 128), (32, 4, 131)],
    &[
        (11, 4, 110),
        (12, 2480, 111),
        (13, 4, 112),
        (14, 113, 113),
        (25, 4, 124),
        (26, 4, 125),
        (33, 2330, 132),
        (35, 4, 134),
        (37, 4, 136),
    ],
];

fn wordpiece() -> Tokenizer {
    Tokenizer::embedded("austen-wordpiece").unwrap()
}

fn masking(change: impl FnOnce(&mut ObjectiveConfig)) -> Masking {
    let mut config = ObjectiveConfig::default();
    change(&mut config);
    Masking::new(&config, &wordpiece()).unwrap()
}

fn training(seed: u64, row: u64) -> Draw {
    Draw::Training { seed, row }
}

/// Ids that are no special tokens, all over the vocabulary.
fn ordinary(len: usize) -> Vec<i32> {
    (0..len).map(|i| 5 + (i * 2503 % (VOCAB - 5)) as i32).collect()
}

/// Masks `rows` rows of 1,000 ordinary tokens: (before, after, target) of each position.
fn many(masking: &Masking, rows: u64) -> Vec<Vec<(i32, i32, i32)>> {
    (0..rows)
        .map(|row| {
            let before = ordinary(1000);
            let mut after = before.clone();
            let targets = masking.apply(&mut after, training(7, row));
            before.into_iter().zip(after).zip(targets).map(|((b, a), t)| (b, a, t)).collect()
        })
        .collect()
}

/// A share `p` of `n` draws lies within 4.42 standard errors with confidence 99.999 %.
#[track_caller]
fn assert_share(what: &str, count: usize, n: usize, p: f64) {
    let (share, error) = (count as f64 / n as f64, (p * (1.0 - p) / n as f64).sqrt());
    assert!((share - p).abs() <= 4.42 * error, "{what}: {share} of {n}, expected {p} +- {error}");
}

#[test]
fn the_shares_are_those_of_bert() {
    let rows = many(&masking(|_| ()), 400);
    let all: Vec<_> = rows.concat();
    let chosen: Vec<_> = all.iter().filter(|(_, _, target)| *target != IGNORE_INDEX).collect();
    assert_share("chosen", chosen.len(), all.len(), 0.15);
    let masked = chosen.iter().filter(|(_, after, _)| *after == MASK).count();
    let same = chosen.iter().filter(|(before, after, _)| before == after).count();
    let v = VOCAB as f64;
    // One random token in 4,096 is [MASK], and one is what was there.
    assert_share("[MASK]", masked, chosen.len(), 0.8 + 0.1 / v);
    assert_share("unchanged", same, chosen.len(), 0.1 + 0.1 / v);
    assert_share("random", chosen.len() - masked - same, chosen.len(), 0.1 * (1.0 - 2.0 / v));
    // Neighbours are chosen independently.
    let neighbours = rows.iter().flat_map(|row| row.windows(2));
    let both = neighbours.filter(|pair| pair.iter().all(|(_, _, target)| *target != IGNORE_INDEX)).count();
    assert_share("both of two neighbours", both, 400 * 999, 0.15 * 0.15);
    // What is not chosen stays; targets are the originals.
    for (before, after, target) in all {
        assert!(target == before || (target == IGNORE_INDEX && after == before));
    }
}

#[test]
fn random_tokens_come_from_the_whole_vocabulary_evenly() {
    let all_random = masking(|c| (c.mask_prob, c.mask_token_share, c.random_token_share) = (1.0, 0.0, 1.0));
    let mut bins = [0.0f64; 64];
    for (_, after, _) in many(&all_random, 100).concat() {
        bins[after as usize / 64] += 1.0;
    }
    let expected = 100_000.0 / 64.0;
    // Chi squared with 63 degrees of freedom is above 123 once in 100,000 times.
    let chi: f64 = bins.iter().map(|n| (n - expected).powi(2) / expected).sum();
    assert!(chi < 123.0, "chi squared {chi}: {bins:?}");
}

#[test]
fn other_shares_are_obeyed() {
    for (chosen, masked, random) in [(0.4, 0.5, 0.25), (0.02, 1.0, 0.0), (1.0, 0.0, 0.0)] {
        let masking =
            masking(|c| (c.mask_prob, c.mask_token_share, c.random_token_share) = (chosen, masked, random));
        let all = many(&masking, 100).concat();
        let picked: Vec<_> = all.iter().filter(|(_, _, target)| *target != IGNORE_INDEX).collect();
        assert_share("chosen", picked.len(), all.len(), chosen);
        let count = picked.iter().filter(|(_, after, _)| *after == MASK).count();
        assert_share("[MASK]", count, picked.len(), masked + random / VOCAB as f64);
    }
    let none = masking(|c| c.mask_prob = 0.0);
    assert!(many(&none, 10).concat().iter().all(|(b, a, t)| b == a && *t == IGNORE_INDEX));
}

#[test]
fn a_seed_gives_the_documented_draws() {
    // (position, id afterwards, target), by a Python program written from the doc comments of `masked` and `philox`.
    let cases = [
        (training(42, 3), EXACT[0]),
        (training(42, (1 << 33) + 5), EXACT[1]),
        (Draw::Evaluation { block: 3 }, EXACT[2]),
    ];
    let masking = masking(|_| ());
    for (draw, want) in cases {
        let before: Vec<i32> = [2].into_iter().chain(100..138).chain([3]).collect();
        let mut after = before.clone();
        let targets = masking.apply(&mut after, draw);
        let got: Vec<_> =
            (0..40).filter(|&i| targets[i] != IGNORE_INDEX).map(|i| (i, after[i], targets[i])).collect();
        assert_eq!(got, want, "{draw:?}");
        let changed = (0..40).filter(|&i| after[i] != before[i]);
        assert!(changed.into_iter().all(|i| targets[i] == before[i]));
    }
}

#[test]
fn a_draw_is_a_function_of_seed_row_and_position_alone() {
    let masking = masking(|c| c.mask_prob = 0.5);
    let draw = |len: usize, draw: Draw| masking.apply(&mut ordinary(len), draw);
    assert_eq!(draw(300, training(1, 9)), draw(300, training(1, 9)));
    assert_eq!(draw(300, training(1, 9))[..100], draw(100, training(1, 9)));
    assert_ne!(draw(300, training(1, 9)), draw(300, training(1, 10)), "the next row, or epoch");
    assert_ne!(draw(300, training(1, 9)), draw(300, training(2, 9)), "another seed");
    assert_ne!(draw(300, training(0, 9)), draw(300, Draw::Evaluation { block: 9 }), "evaluation");
}

#[test]
fn special_tokens_are_never_chosen() {
    let masking = masking(|c| c.mask_prob = 1.0);
    let before: Vec<i32> = (0..500).map(|i| if i % 3 == 0 { SPECIAL[i % 5] } else { 5 + i as i32 }).collect();
    let mut after = before.clone();
    let targets = masking.apply(&mut after, training(3, 0));
    for ((before, after), target) in before.into_iter().zip(after).zip(targets) {
        if SPECIAL.contains(&before) {
            assert_eq!((after, target), (before, IGNORE_INDEX));
        } else {
            assert_eq!(target, before, "every other token is");
        }
    }
}

#[test]
fn whole_words_are_chosen_together() {
    let tokenizer = wordpiece();
    let text = "It is a truth universally acknowledged, that a single man in possession of a good fortune must be in want \
        of a wife; however little known the feelings or views of such a man may be on his first entering a neighbourhood";
    let ids: Vec<i32> = tokenizer.encode(text).unwrap().into_iter().map(|id| id as i32).collect();
    let piece = |id: i32| tokenizer.id_to_token(id as u32).unwrap().starts_with("##");
    assert!(ids.iter().filter(|id| piece(**id)).count() >= 4, "the text has words of several pieces");
    let (mut pieces, mut pieces_chosen) = (0, 0);
    let (mut torn, mut words, mut words_chosen) = (0, 0, 0);
    let whole = masking(|c| c.whole_word = true);
    let single = masking(|_| ());
    for row in 0..3000 {
        let targets = whole.apply(&mut ids.clone(), training(5, row));
        let chosen = |i: usize| targets[i] != IGNORE_INDEX;
        for (i, &id) in ids.iter().enumerate().take(ids.len() - 1).skip(1) {
            if piece(id) {
                assert_eq!(chosen(i), chosen(i - 1), "row {row}, token {i}");
                (pieces, pieces_chosen) = (pieces + 1, pieces_chosen + usize::from(chosen(i)));
            } else {
                (words, words_chosen) = (words + 1, words_chosen + usize::from(chosen(i)));
            }
        }
        let targets = single.apply(&mut ids.clone(), training(5, row));
        torn += (1..ids.len() - 1)
            .filter(|&i| piece(ids[i]) && (targets[i] == IGNORE_INDEX) != (targets[i - 1] == IGNORE_INDEX))
            .count();
    }
    assert_share("words", words_chosen, words, 0.15);
    assert!(pieces_chosen > 0 && pieces_chosen < pieces);
    assert!(torn > 1000, "one by one, words are torn");
}

#[test]
fn a_word_has_the_choice_of_its_first_piece_and_each_piece_its_own_fate() {
    let tokenizer = wordpiece();
    let pieces: Vec<i32> =
        (5..VOCAB as i32).filter(|id| tokenizer.id_to_token(*id as u32).unwrap().starts_with("##")).collect();
    let piece = |id: i32| pieces.contains(&id);
    let whole_words: Vec<i32> = ordinary(4000).into_iter().filter(|id| !piece(*id)).collect();
    // Words of one to four pieces, special tokens between and inside them, and a piece with nothing before it.
    let mut before = vec![pieces[0]];
    for i in 0..400 {
        before.push(whole_words[i]);
        before.extend(&pieces[i..i + i % 4]);
        before.extend((i % 7 == 0).then_some(SPECIAL[i % 5]));
        before.extend((i % 14 == 0).then_some(pieces[i]));
    }
    let starts: Vec<usize> = (0..before.len())
        .scan(0, |start, i| {
            let inside = i > 0 && piece(before[i]) && !SPECIAL.contains(&before[i - 1]);
            *start = if inside { *start } else { i };
            Some(*start)
        })
        .collect();
    let apply = |change: fn(&mut ObjectiveConfig), row: u64| {
        let mut after = before.clone();
        let targets = masking(change).apply(&mut after, training(11, row));
        (after, targets)
    };
    for row in 0..20 {
        let (_, single) = apply(|c| c.mask_prob = 0.4, row);
        let (fates, _) = apply(|c| c.mask_prob = 1.0, row);
        let (after, targets) = apply(|c| (c.mask_prob, c.whole_word) = (0.4, true), row);
        for (i, &start) in starts.iter().enumerate() {
            let chosen = single[start] != IGNORE_INDEX;
            let want = if chosen { (fates[i], before[i]) } else { (before[i], IGNORE_INDEX) };
            assert_eq!((after[i], targets[i]), want, "row {row}, token {i}, word from {start}");
        }
    }
}

#[test]
fn a_token_that_only_begins_like_a_piece_begins_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let vocab = dir.path().join("vocab.txt");
    std::fs::write(&vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nc\n#\n#1\n##b\n").unwrap();
    let mut config = ObjectiveConfig { mask_prob: 0.5, ..ObjectiveConfig::default() };
    let tokenizer = Tokenizer::load(&vocab).unwrap();
    let single = Masking::new(&config, &tokenizer).unwrap();
    config.whole_word = true;
    let whole = Masking::new(&config, &tokenizer).unwrap();
    for row in 0..50 {
        let targets = |masking: &Masking, mut ids: Vec<i32>| masking.apply(&mut ids, training(2, row));
        // None of these is inside a word.
        let alone = vec![5, 6, 7, 5, 7, 6];
        assert_eq!(targets(&whole, alone.clone()), targets(&single, alone), "row {row}");
        let chosen: Vec<bool> = targets(&whole, vec![6, 8, 8]).iter().map(|t| *t != IGNORE_INDEX).collect();
        assert!(chosen.iter().all(|c| *c == chosen[0]), "row {row}: # and its pieces");
    }
}

#[test]
fn the_ends_of_the_shares_are_exact() {
    // Probability 1 leaves no draw out and 0 takes none, whatever the draws.
    let fates = |masked: f64, random: f64| {
        let masking =
            masking(|c| (c.mask_prob, c.mask_token_share, c.random_token_share) = (1.0, masked, random));
        many(&masking, 200).concat()
    };
    assert!(fates(1.0, 0.0).iter().all(|(_, after, _)| *after == MASK));
    assert!(fates(0.0, 0.0).iter().all(|(before, after, _)| after == before));
    let random = fates(0.0, 1.0);
    let kept = random.iter().filter(|(before, after, _)| before == after).count();
    assert_share("what was there", kept, random.len(), 1.0 / VOCAB as f64);
    assert!(random.iter().all(|(_, after, _)| (0..VOCAB as i32).contains(after)));
    let (least, most) = random.iter().fold((i32::MAX, 0), |(a, b), (_, x, _)| (a.min(*x), b.max(*x)));
    assert_eq!((least, most), (0, VOCAB as i32 - 1), "200,000 draws reach both ends");
}

#[test]
fn the_three_draws_of_a_position_are_independent() {
    // Half chosen, half of those masked, the rest random: each of the four combinations of neighbouring fates has its share,
    // and random tokens do not depend on what was drawn before.
    let masking = masking(|c| (c.mask_prob, c.mask_token_share, c.random_token_share) = (0.5, 0.5, 0.5));
    let rows = many(&masking, 100);
    let all = rows.concat();
    let chosen: Vec<_> = all.iter().filter(|(_, _, t)| *t != IGNORE_INDEX).collect();
    let masked = chosen.iter().filter(|(_, after, _)| *after == MASK).count();
    assert_share("[MASK] of the chosen", masked, chosen.len(), 0.5 + 0.5 / VOCAB as f64);
    let random: Vec<i32> = chosen.iter().map(|(_, after, _)| *after).filter(|after| *after != MASK).collect();
    let low = random.iter().filter(|id| **id < VOCAB as i32 / 2).count();
    // [MASK] itself, id 4, is in the lower half and not counted.
    let v = VOCAB as f64;
    assert_share("lower half", low, random.len(), (v / 2.0 - 1.0) / (v - 1.0));
    let fates: Vec<bool> = chosen.iter().map(|(_, after, _)| *after == MASK).collect();
    let both = fates.windows(2).filter(|pair| pair[0] && pair[1]).count();
    assert_share("two [MASK] in a row", both, fates.len() - 1, (0.5 + 0.5 / v).powi(2));
}

#[test]
fn what_cannot_be_is_refused() {
    let refuse = |config: ObjectiveConfig, tokenizer: &Tokenizer| {
        Masking::new(&config, tokenizer).err().expect("refused").to_string()
    };
    let default = ObjectiveConfig::default();
    assert_eq!(
        refuse(default.clone(), &Tokenizer::embedded("austen").unwrap()),
        "the tokenizer (BPE, 4096 tokens) has no [MASK] token, which objective.kind = \"mlm\" needs; use a BERT \
         tokenizer, for example: handloom tokenizer train --kind wordpiece"
    );
    let shares = ObjectiveConfig { random_token_share: 0.25, ..default.clone() };
    assert_eq!(
        refuse(shares, &wordpiece()),
        "configuration: objective.mask_token_share 0.8 and objective.random_token_share 0.25 add up to 1.05, expected \
         at most 1"
    );
    // Sums that are 1 but for rounding are 1.
    let shares = ObjectiveConfig { mask_token_share: 0.9, random_token_share: 0.1, ..default.clone() };
    Masking::new(&shares, &wordpiece()).map(|_| ()).unwrap();
    let whole = ObjectiveConfig { whole_word: true, ..default.clone() };
    let unigram = TrainOptions {
        kind: TokenizerKind::Unigram,
        vocab_size: 28,
        special: vec!["[MASK]".to_owned()],
        show_progress: false,
    };
    let text = "a girl walks home slowly and sees bright birds over old trees ".repeat(30);
    assert_eq!(
        refuse(whole, &train([text], &unigram).unwrap()),
        "objective.whole_word needs a WordPiece tokenizer, which marks the pieces of a word with ##; this one is Unigram"
    );
    for mask_prob in [-0.1, 1.5, f64::NAN] {
        let message = refuse(ObjectiveConfig { mask_prob, ..default.clone() }, &wordpiece());
        assert!(message.starts_with("configuration: objective.mask_prob is "), "{message}");
    }
}
