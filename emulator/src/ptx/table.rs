//! The opcode table: every instruction form the emulator knows, one line per form, as data.
//!
//! A form is a root (`add`) and groups of modifiers. `{...}` marks an optional group, `|` separates alternatives, and
//! `@name` stands for a set of `SETS`; `; sm_90 8.1` at the end says the oldest target (`sm_90a`: no other) and the
//! oldest PTX version that have the form. Matching does not depend on the order of the modifiers of different groups
//! (compilers differ), only on the order of types (`cvt.d.a`) and layouts. Every modifier must be claimed by a group and every
//! mandatory group must claim one: anything else is an unknown form, reported with its line. Forms follow the "Syntax"
//! boxes of PTX ISA section 9.7; where these and ptxas differ, ptxas is followed (`tests/grammar.rs`).

mod arithmetic;
mod copies;
mod matrix;
mod memory;
mod op;
mod sync;

use std::collections::HashMap;
use std::sync::OnceLock;

use super::ast::Ty;
pub use op::Op;

/// Sets of alternatives that forms share.
const SETS: &[(&str, &str)] = &[
    ("rnd", ".rn|.rz|.rm|.rp"),
    ("irnd", ".rni|.rzi|.rmi|.rpi"),
    ("int", ".u16|.s16|.u32|.s32|.u64|.s64"),
    ("cvtint", ".u8|.u16|.u32|.u64|.s8|.s16|.s32|.s64"),
    ("bits", ".b16|.b32|.b64"),
    ("logic", ".pred|.b16|.b32|.b64"),
    ("f16", ".f16|.f16x2"),
    ("bf16", ".bf16|.bf16x2"),
    ("scalar", ".b8|.b16|.b32|.b64|.u8|.u16|.u32|.u64|.s8|.s16|.s32|.s64|.f32|.f64|.b128"),
    ("value", ".b16|.b32|.b64|.u16|.u32|.u64|.s16|.s32|.s64|.f32|.f64"),
    ("compared", ".b16|.b32|.b64|.u16|.u32|.u64|.s16|.s32|.s64"),
    (
        "space",
        ".global|.shared|.shared::cta|.shared::cluster|.local|.const|.param|.param::entry|.param::func",
    ),
    ("strong", ".global|.shared|.shared::cta|.shared::cluster"),
    ("scope", ".cta|.cluster|.gpu|.sys"),
    ("evict", ".L1::evict_normal|.L1::evict_unchanged|.L1::evict_first|.L1::evict_last|.L1::no_allocate"),
    ("hint", ".L2::cache_hint"),
    ("fetch", ".L2::64B|.L2::128B|.L2::256B"),
    ("vec", ".v2|.v4"),
    ("vec16", ".v2|.v4|.v8"),
    ("icmp", ".eq|.ne|.lt|.le|.gt|.ge|.lo|.ls|.hi|.hs"),
    ("fcmp", ".eq|.ne|.lt|.le|.gt|.ge|.equ|.neu|.ltu|.leu|.gtu|.geu|.num|.nan"),
    ("bool", ".and|.or|.xor"),
    ("sign", ".u32|.s32"),
    ("vcmp", ".eq|.ne|.lt|.le|.gt|.ge"),
    ("secondary", ".add|.min|.max"),
    ("sem", ".relaxed|.acquire|.release|.acq_rel"),
    ("wmma", ".m16n16k16|.m32n8k16|.m8n32k16"),
    ("wspace", ".global|.shared|.shared::cta"),
    ("cta", ".shared|.shared::cta"),
    ("cluster", ".shared|.shared::cta|.shared::cluster"),
    ("tx", ".mbarrier::complete_tx::bytes"),
    ("arrival", ".release.cta|.release.cluster"),
    ("wait", ".acquire.cta|.acquire.cluster"),
    ("relaxed", ".relaxed.cta|.relaxed.cluster"),
    ("dim", ".1d|.2d|.3d|.4d|.5d"),
    ("dim3", ".3d|.4d|.5d"),
    ("redop", ".add|.min|.max|.inc|.dec|.and|.or|.xor"),
    ("policy", ".L2::evict_last|.L2::evict_normal|.L2::evict_first|.L2::evict_unchanged"),
    ("second", ".L2::evict_first|.L2::evict_unchanged"),
    ("sparse", ".sp|.sp::ordered_metadata"),
];

/// Modifiers that need a target or a version of their own, whatever the form.
const MODIFIERS: &[(&str, &str)] = &[
    ("sp", "7.1"),
    ("L2::64B", "7.4"),
    ("L2::128B", "7.4"),
    ("L2::256B", "7.4"),
    ("L2::cache_hint", "7.4"),
    ("L2::evict_last", "7.4"),
    ("L2::evict_normal", "7.4"),
    ("L1::evict_normal", "7.4"),
    ("L1::evict_unchanged", "7.4"),
    ("L1::evict_first", "7.4"),
    ("L1::evict_last", "7.4"),
    ("L1::no_allocate", "7.4"),
    ("shared::cta", "7.8"),
    ("cluster", "sm_90 7.8"),
    ("shared::cluster", "sm_90 7.8"),
    ("b128", "8.3"),
    ("param::entry", "8.3"),
    ("sp::ordered_metadata", "8.5"),
];

/// An instruction and one form of it.
type Entry = (Op, &'static str);

/// Every form, by the chapters of the ISA. The first form of a root whose groups all match is taken.
fn entries() -> impl Iterator<Item = &'static Entry> {
    [arithmetic::FORMS, memory::FORMS, copies::FORMS, sync::FORMS, matrix::FORMS].into_iter().flatten()
}

struct Group {
    optional: bool,
    /// Each alternative is one or more consecutive modifiers (`.xorsign.abs`).
    alternatives: Vec<&'static str>,
}

struct Form {
    op: Op,
    groups: Vec<Group>,
    needs: Needs,
}

impl Form {
    /// As the ISA writes it, for messages.
    fn written(&self, root: &str) -> String {
        let group = |group: &Group| {
            let choice: Vec<String> = group.alternatives.iter().map(|words| format!(".{words}")).collect();
            let choice = choice.join("|");
            if group.optional { format!(" {{{choice}}}") } else { format!(" {choice}") }
        };
        format!("{root}{}", self.groups.iter().map(group).collect::<String>())
    }
}

/// What a form asks of the module it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needs {
    /// The number of the oldest target.
    pub target: u32,
    /// Only the target with `a` itself has it.
    pub specific: bool,
    /// The oldest PTX version.
    pub version: (u32, u32),
}

impl Needs {
    /// Of `sm_90a 8.0` or the like.
    fn parse(text: &str) -> Needs {
        let mut needs = Needs::default();
        for word in text.split_whitespace() {
            match word.strip_prefix("sm_") {
                Some(target) => {
                    needs.specific = target.ends_with('a');
                    needs.target = target.trim_end_matches('a').parse().unwrap_or(0);
                }
                None => {
                    let (major, minor) = word.split_once('.').unwrap_or_default();
                    needs.version = (major.parse().unwrap_or(0), minor.parse().unwrap_or(0));
                }
            }
        }
        needs
    }

    /// Both.
    fn and(self, other: Needs) -> Needs {
        Needs {
            target: self.target.max(other.target),
            specific: self.specific || other.specific,
            version: self.version.max(other.version),
        }
    }
}

fn forms() -> &'static HashMap<&'static str, Vec<Form>> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Form>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: HashMap<&'static str, Vec<Form>> = HashMap::new();
        for &(op, pattern) in entries() {
            let (groups, needs) = pattern.split_once(';').unwrap_or((pattern, ""));
            let mut words = groups.split_whitespace();
            let roots = words.next().unwrap_or_default();
            for root in roots.split('|') {
                let groups = words.clone().map(group).collect();
                let form = Form { op, groups, needs: Needs::parse(needs) };
                table.entry(root).or_default().push(form);
            }
        }
        table
    })
}

fn group(word: &'static str) -> Group {
    let inner = word.strip_prefix('{').and_then(|w| w.strip_suffix('}'));
    let mut alternatives = Vec::new();
    for part in inner.unwrap_or(word).split('|') {
        match part.strip_prefix('@') {
            Some(name) => {
                let found = SETS.iter().find(|(n, _)| *n == name);
                let set = found.map_or_else(|| matrix::shapes(name), |(_, set)| *set);
                alternatives.extend(set.split('|').map(|a| &a[1..]));
            }
            None => alternatives.push(&part[1..]),
        }
    }
    Group { optional: inner.is_some(), alternatives }
}

/// An instruction's opcode with its modifiers, matched against the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub op: Op,
    /// The instruction as written, for messages.
    pub written: String,
    /// The modifiers in the order of the form's groups.
    pub mods: Vec<&'static str>,
    pub needs: Needs,
}

impl Decoded {
    pub fn has(&self, modifier: &str) -> bool {
        self.mods.contains(&modifier)
    }

    /// The first of `choices` that the instruction has.
    pub fn one_of(&self, choices: &[&'static str]) -> Option<&'static str> {
        self.mods.iter().copied().find(|m| choices.contains(m))
    }

    /// The types, in order: destination first where a form has several.
    pub fn types(&self) -> Vec<Ty> {
        self.mods.iter().filter_map(|m| Ty::from_word(m)).collect()
    }
}

impl std::fmt::Display for Decoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.written)
    }
}

/// Finds the form of `root` with `mods` (dots removed).
///
/// # Errors
/// A sentence without position: the root is unknown, or no form of it has these modifiers (the nearest are listed).
pub fn decode(root: &str, mods: &[&str]) -> Result<Decoded, String> {
    let written = || format!("{root}{}", mods.iter().map(|m| format!(".{m}")).collect::<String>());
    let Some(forms) = forms().get(root) else {
        return Err(format!("unknown instruction `{}`", written()));
    };
    let (mut near, mut lacking) = (Vec::new(), None);
    for form in forms {
        let Claim { words, left, missing } = claim(form, mods);
        if left == 0 && missing.is_empty() {
            let own = MODIFIERS.iter().filter(|(word, _)| words.contains(word));
            let needs = own.fold(form.needs, |needs, (_, more)| needs.and(Needs::parse(more)));
            return Ok(Decoded { op: form.op, written: written(), mods: words, needs });
        }
        if let (0, [one]) = (left, &missing[..]) {
            lacking.get_or_insert(*one);
        }
        near.push((left + missing.len(), form));
    }
    if let Some(group) = lacking {
        let choices: Vec<String> = group.alternatives.iter().map(|a| format!(".{a}")).collect();
        let rounding = choices.iter().all(|c| c.starts_with(".r"));
        let what = if rounding { "a rounding modifier: " } else { "" };
        return Err(format!("`{}` needs {what}{}", written(), choices.join(" or ")));
    }
    near.sort_by_key(|(distance, _)| *distance);
    let known: Vec<String> = near.iter().take(NEAR).map(|(_, form)| form.written(root)).collect();
    Err(format!("unknown form `{}`; nearest known: {}", written(), known.join("; ")))
}

/// Forms that the message about an unknown one lists.
const NEAR: usize = 3;

/// What a form makes of an instruction's modifiers.
struct Claim<'f> {
    /// The modifiers claimed, in the order of the form's groups.
    words: Vec<&'static str>,
    /// How many no group claims.
    left: usize,
    /// Mandatory groups that claim none.
    missing: Vec<&'f Group>,
}

fn claim<'f>(form: &'f Form, mods: &[&str]) -> Claim<'f> {
    let mut claimed = vec![false; mods.len()];
    let (mut words, mut missing) = (Vec::with_capacity(mods.len()), Vec::new());
    // Types keep their order, and so do layouts.
    let mut last = None;
    for group in &form.groups {
        let found = (0..mods.len()).find_map(|i| {
            let choice = group.alternatives.iter().find(|alternative| {
                let mut parts = alternative.split('.').enumerate();
                parts.all(|(k, part)| mods.get(i + k).is_some_and(|m| *m == part) && !claimed[i + k])
            })?;
            let ordered = Ty::from_word(choice).is_some() || matches!(*choice, "row" | "col");
            (!ordered || last.is_none_or(|last| i > last)).then_some((i, *choice, ordered))
        });
        match found {
            Some((i, choice, ordered)) => {
                (0..choice.split('.').count()).for_each(|k| claimed[i + k] = true);
                words.extend(choice.split('.'));
                last = if ordered { Some(i) } else { last };
            }
            None if group.optional => {}
            None => missing.push(group),
        }
    }
    Claim { words, left: claimed.iter().filter(|&&c| !c).count(), missing }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Result<Decoded, String> {
        let mut parts = text.split('.');
        let root = parts.next().unwrap();
        decode(root, &parts.collect::<Vec<_>>())
    }

    #[test]
    fn every_set_and_alternative_is_well_formed() {
        for (_, pattern) in entries() {
            let groups = pattern.split(';').next().unwrap();
            for word in groups.split_whitespace().skip(1) {
                let group = group(word);
                assert!(!group.alternatives.is_empty(), "{pattern}: {word}");
                assert!(
                    group.alternatives.iter().all(|a| !a.is_empty() && !a.contains(['{', '}', '@'])),
                    "{word}"
                );
            }
        }
    }

    #[test]
    fn modifiers_are_claimed_in_any_order_but_types_in_theirs() {
        let cvt = form("cvt.rn.f32.s64").unwrap();
        assert_eq!(cvt.types(), vec![Ty::F32, Ty::S64]);
        assert_eq!(form("cvt.rn.f32.bf16").unwrap().types(), vec![Ty::F32, Ty::BF16]);
        assert_eq!(form("cvt.rn.bf16.f32").unwrap().types(), vec![Ty::BF16, Ty::F32]);
        assert_eq!(form("ld.global.nc.L1::no_allocate.v4.f32").unwrap().op, Op::Ld);
        assert_eq!(form("ld.volatile.global.u32").unwrap().op, Op::Ld);
        // A later form takes what an earlier one lacks a modifier of.
        assert!(!form("mad.hi.s32").unwrap().has("sat"));
        assert_eq!(form("ld.global.volatile.u32").unwrap().op, Op::Ld);
        assert!(form("min.xorsign.abs.f32").unwrap().has("xorsign"));
    }

    #[test]
    fn what_a_form_needs_is_read_from_its_line() {
        let needs = |text: &str| form(text).unwrap().needs;
        assert_eq!(needs("add.s32"), Needs::default());
        assert_eq!(needs("ld.shared::cluster.u32").target, 90);
        assert!(needs("wgmma.fence.sync.aligned").specific);
        let fp8 = needs("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32");
        assert_eq!((fp8.target, fp8.version), (89, (8, 4)));
    }

    #[test]
    fn unknown_forms_are_refused() {
        for bad in
            ["add", "add.f33", "fma.f32", "cvt.f32.s32.s32", "mul.wide.u64", "shl.u32", "frobnicate.b32"]
        {
            assert!(form(bad).is_err(), "{bad} was accepted");
        }
        assert!(form("fma.f32").unwrap_err().contains("needs a rounding modifier: .rn or .rz or .rm or .rp"));
        assert!(form("shfl.sync.b32").unwrap_err().contains("needs .up or .down or .bfly or .idx"));
        let message = form("add.sat.u32").unwrap_err();
        assert!(
            message.contains("unknown form `add.sat.u32`") && message.contains("add {.sat} .s32"),
            "{message}"
        );
    }
}
