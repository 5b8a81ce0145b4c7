//! A launch's counters as one page of HTML, with the CUDA source and the PTX annotated line by line. It needs no server
//! and nothing from elsewhere: open the file.

use crate::code::Class;
use crate::counters::{Counters, Sums};
use crate::device::{LaunchConfig, LaunchReport};

/// What a page shows.
pub struct Page<'a> {
    pub kernel: &'a str,
    pub arch: &'a str,
    pub config: LaunchConfig,
    pub report: &'a LaunchReport,
    /// The module's text.
    pub ptx: &'a str,
    /// Text of a source file by the name the PTX gives it, where there is one.
    pub source: &'a dyn Fn(&str) -> Option<String>,
}

/// Lines of PTX shown before the first and after the last that ran.
const CONTEXT: u32 = 3;

/// Source lines that are shown on both sides of one that ran.
const NEAR: u32 = 5;

const STYLE: &str = include_str!("html.css");
const SCRIPT: &str = include_str!("html.js");

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// 12345678 as `12.3 M`.
fn short(n: u64) -> String {
    let n = n as f64;
    let (value, unit) = match n {
        n if n >= 1e12 => (n / 1e12, " T"),
        n if n >= 1e9 => (n / 1e9, " G"),
        n if n >= 1e6 => (n / 1e6, " M"),
        n if n >= 1e4 => (n / 1e3, " k"),
        n => return format!("{n}"),
    };
    format!("{value:.*}{unit}", if value < 10.0 { 2 } else { 1 })
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn tile(title: &str, value: &str, note: &str, quality: &str) -> String {
    format!(
        "<div class=\"tile {quality}\"><div class=\"value\">{}</div><div class=\"title\">{}</div><div class=\"note\">{}</div></div>\n",
        escape(value),
        escape(title),
        escape(note)
    )
}

/// A word for the colour of a share that should be 1.
fn quality(share: f64) -> &'static str {
    match share {
        s if s >= 0.9 => "good",
        s if s >= 0.5 => "fair",
        _ => "poor",
    }
}

fn tiles(t: &Sums) -> String {
    let (global, shared, barrier) = (t.global(), t.shared(), t.class(Class::Barrier));
    let mut out = tile(
        "warp instructions",
        &short(t.warp_instructions()),
        &format!("{} of lanes", short(t.lane_instructions())),
        "",
    );
    out += &tile(
        "lane efficiency",
        &percent(t.lane_efficiency()),
        "lanes that took part; the rest is divergence and part-filled warps",
        quality(t.lane_efficiency()),
    );
    if global.bytes > 0 {
        out += &tile(
            "coalescing",
            &percent(t.coalescing()),
            &format!("{} sectors of 32 B, at least {}", short(global.transfers), short(global.ideal)),
            quality(t.coalescing()),
        );
        out += &tile("global memory", &format!("{}B", short_unit(global.bytes)), "asked for by lanes", "");
    }
    if shared.bytes > 0 {
        let share = shared.ideal as f64 / shared.transfers.max(1) as f64;
        out += &tile(
            "bank conflicts",
            &short(t.bank_conflicts()),
            &format!("{} passes over the banks, at least {}", short(shared.transfers), short(shared.ideal)),
            quality(share),
        );
    }
    let pipes: Vec<String> = t
        .flops_by_pipe
        .iter()
        .map(|(pipe, flops)| format!("{} {}", short(*flops), pipe_name(*pipe)))
        .collect();
    out += &tile("flops", &short(t.flops + t.tensor_flops), &pipes.join(", "), "");
    if let Some(intensity) = t.intensity() {
        out += &tile(
            "flops per byte",
            &format!("{intensity:.2}"),
            "of global memory asked for, caches not counted",
            "",
        );
    }
    if barrier.ideal > 0 {
        let note = format!("arrivals of warps, {} of which waited", short(barrier.transfers));
        out += &tile("barrier arrivals", &short(barrier.ideal), &note, "");
    }
    let atomic = t.class(Class::Atomic);
    if atomic.ideal > 0 {
        let note = format!("updates one after the other in each of {} requests", short(atomic.ideal));
        out += &tile(
            "atomic contention",
            &format!("{:.2}", t.atomic_contention()),
            &note,
            quality(1.0 / t.atomic_contention()),
        );
    }
    out
}

/// A number with a unit's prefix, for bytes.
fn short_unit(n: u64) -> String {
    let text = short(n);
    if text.ends_with(|c: char| c.is_ascii_digit()) { format!("{text} ") } else { text }
}

fn pipe_name(class: Class) -> &'static str {
    match class {
        Class::Float32 => "f32",
        Class::Float64 => "f64",
        Class::Half => "half",
        Class::Tensor => "tensor",
        Class::Special => "special",
        _ => "other",
    }
}

fn class_table(t: &Sums) -> String {
    let most = t.by_class.values().map(|c| c.warps).max().unwrap_or(1).max(1);
    let mut rows: Vec<_> = t.by_class.iter().collect();
    rows.sort_by_key(|(_, c)| std::cmp::Reverse(c.warps));
    let mut out = String::from(
        "<table class=\"classes\"><tr><th>class<th>warp instructions<th><th>lanes per warp<th>bytes<th>sectors, passes, waits<th>at least\n",
    );
    for (class, c) in rows {
        out += &format!(
            "<tr><td>{class:?}<td class=\"n\">{}<td class=\"bar\"><i style=\"width:{:.1}%\"></i><td class=\"n\">{:.1}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}\n",
            short(c.warps),
            100.0 * c.warps as f64 / most as f64,
            c.lanes as f64 / c.warps.max(1) as f64,
            blank_zero(c.bytes),
            blank_zero(c.transfers),
            blank_zero(c.ideal)
        );
    }
    out + "</table>\n"
}

fn blank_zero(n: u64) -> String {
    if n == 0 { String::new() } else { short(n) }
}

const LINE_HEAD: &str = "<tr><th>line<th title=\"share of the launch's warp instructions\">share<th>warps<th title=\"lanes that took part\">lanes<th title=\"bytes of global memory asked for\">global<th title=\"sectors of 32 B touched over the least\">sectors<th title=\"passes over the banks beyond the least\">conflicts<th>flops<th class=\"code\">";

/// The numbers of a line; empty ones for a line that did not run.
fn line_cells(sums: Option<&Sums>, most: u64) -> String {
    let Some(s) = sums else { return "<td><td><td><td><td><td><td>".to_string() };
    let heat = s.warp_instructions() as f64 / most.max(1) as f64;
    let (global, conflicts) = (s.global(), s.bank_conflicts());
    let sectors = match global.transfers as f64 / global.ideal.max(1) as f64 {
        _ if global.transfers == 0 => String::new(),
        ratio => format!("{ratio:.2}×"),
    };
    let lanes = s.lane_efficiency();
    format!(
        "<td class=\"bar\"><i style=\"width:{:.1}%\"></i><td class=\"n\">{}<td class=\"n {}\">{:.0} %<td class=\"n\">{}<td class=\"n {}\">{sectors}<td class=\"n {}\">{}<td class=\"n\">{}",
        100.0 * heat,
        short(s.warp_instructions()),
        if lanes < 0.9 { quality(lanes) } else { "" },
        100.0 * lanes,
        blank_zero(global.bytes),
        if s.coalescing() < 0.9 { quality(s.coalescing()) } else { "" },
        if conflicts > 0 { "poor" } else { "" },
        blank_zero(conflicts),
        blank_zero(s.flops + s.tensor_flops)
    )
}

/// The number of a source line, for cross references.
fn anchor(file: usize, line: u32) -> String {
    format!("s{file}-{line}")
}

fn files(c: &Counters) -> Vec<&str> {
    let mut files: Vec<&str> = c.lines.keys().map(|(f, _)| f.as_str()).filter(|f| !f.is_empty()).collect();
    files.dedup();
    files
}

fn source_tables(page: &Page) -> String {
    let c = &page.report.counters;
    let most = c.lines.values().map(Sums::warp_instructions).max().unwrap_or(1);
    let mut out = String::new();
    for (number, file) in files(c).into_iter().enumerate() {
        out += &format!("<h2>{}</h2>\n", escape(file));
        let ran = |line: u32| c.lines.get(&(file.to_string(), line));
        out += "<table class=\"lines\">";
        out += LINE_HEAD;
        out += "CUDA\n";
        match (page.source)(file) {
            Some(text) => {
                let mut gap = false;
                for (line, code) in (1u32..).zip(text.lines()) {
                    if !(line.saturating_sub(NEAR)..=line + NEAR).any(|near| ran(near).is_some()) {
                        gap = true;
                        continue;
                    }
                    if std::mem::take(&mut gap) {
                        out += "<tr class=\"gap\"><td colspan=\"9\">⋯\n";
                    }
                    out += &row(&anchor(number, line), line, ran(line), most, code);
                }
            }
            None => {
                for ((_, line), sums) in c.lines.iter().filter(|((f, _), _)| f == file) {
                    out += &row(&anchor(number, *line), *line, Some(sums), most, "");
                }
                out += "<tr><td colspan=\"9\" class=\"hint\">The source file is not here; lines are by number.\n";
            }
        }
        out += "</table>\n";
    }
    out
}

fn row(id: &str, line: u32, sums: Option<&Sums>, most: u64, code: &str) -> String {
    let quiet = if sums.is_none() { " class=\"quiet\"" } else { "" };
    format!(
        "<tr{quiet} data-s=\"{id}\"><td class=\"n\">{line}{}<td class=\"code\">{}\n",
        line_cells(sums, most),
        escape(code)
    )
}

fn ptx_table(page: &Page) -> String {
    let c = &page.report.counters;
    let (Some((&first, _)), Some((&last, _))) = (c.ptx_lines.first_key_value(), c.ptx_lines.last_key_value())
    else {
        return String::new();
    };
    let names = files(c);
    let most = c.ptx_lines.values().map(|l| l.sums.warp_instructions()).max().unwrap_or(1);
    let mut out = String::from("<h2>PTX</h2>\n<table class=\"lines\">");
    out += LINE_HEAD;
    out += "PTX\n";
    for (line, code) in (1..).zip(page.ptx.lines()) {
        if line + CONTEXT < first || line > last + CONTEXT {
            continue;
        }
        let ran = c.ptx_lines.get(&line);
        let id = ran.and_then(|l| l.source.as_ref()).and_then(|(file, n)| {
            names.iter().position(|name| name == file).map(|number| anchor(number, *n))
        });
        out += &row(&id.unwrap_or_default(), line, ran.map(|l| &l.sums), most, code);
    }
    out + "</table>\n"
}

fn findings(report: &LaunchReport) -> String {
    if report.findings.is_empty() {
        return if report.stopped {
            "<p class=\"finding\">The launch was stopped before its end.</p>\n".to_string()
        } else {
            "<p class=\"clean\">No findings: the launch is clean.</p>\n".to_string()
        };
    }
    report
        .findings
        .iter()
        .map(|f| format!("<p class=\"finding\"><b>{:?}</b> {}</p>\n", f.kind, escape(&f.to_string())))
        .collect()
}

/// The page.
pub fn page(p: &Page) -> String {
    let dims = |d: [u32; 3]| format!("{} × {} × {}", d[0], d[1], d[2]);
    let mut launch = format!("grid {} · block {}", dims(p.config.grid), dims(p.config.block));
    if p.config.cluster != [1; 3] {
        launch += &format!(" · cluster {}", dims(p.config.cluster));
    }
    if p.config.dynamic_shared > 0 {
        launch += &format!(" · {} B dynamic shared memory", p.config.dynamic_shared);
    }
    let t = &p.report.counters.total;
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n<title>{kernel}</title>\n<style>\n{STYLE}</style></head><body>\n<header><h1>{kernel}</h1><p>{launch} · {arch}, emulated</p></header>\n{findings}<section class=\"tiles\">\n{tiles}</section>\n<h2>Instructions by class</h2>\n{classes}{sources}{ptx}<footer>Counts are facts about the instructions that ran; they say nothing about time.</footer>\n<script>\n{SCRIPT}</script></body></html>\n",
        kernel = escape(p.kernel),
        arch = escape(p.arch),
        findings = findings(p.report),
        tiles = tiles(t),
        classes = class_table(t),
        sources = source_tables(p),
        ptx = ptx_table(p),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Module, Options};

    const PTX: &str = ".version 8.0
.target sm_80
.address_size 64
.file 1 \"a.cu\"
.visible .entry k(.param .u64 out) {
    .reg .b32 %r<4>; .reg .b64 %rd<4>;
    .loc 1 2 0
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %tid.x;
    .loc 1 3 0
    mul.wide.u32 %rd2, %r1, 128;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r1;
    ret;
}";

    #[test]
    fn the_page_shows_both_texts_and_escapes_them() {
        let mut device = Device::new(Options::default());
        let module = device.load(&Module::parse(PTX).unwrap()).unwrap();
        let out = device.allocate(128 * 64, "out").unwrap();
        let config = LaunchConfig::linear(1, 32);
        let report = device.launch(&module, "k", config, &[out.into()]).unwrap();
        let t = &report.counters.total;
        assert_eq!((t.global().transfers, t.global().ideal), (32, 4), "each lane its own sector");
        assert_eq!(t.coalescing(), 0.125);
        let lines = &report.counters.lines;
        assert_eq!(lines[&("a.cu".to_string(), 3)].global().bytes, 32 * 4);
        let source = |name: &str| {
            (name == "a.cu").then(|| "// <k>\nint i = threadIdx.x;\nout[32 * i] = i;".to_string())
        };
        let page =
            page(&Page { kernel: "k", arch: "sm_80", config, report: &report, ptx: PTX, source: &source });
        assert!(page.contains("// &lt;k&gt;") && page.contains("out[32 * i] = i;"), "{page}");
        assert!(page.contains("st.global.u32 [%rd3], %r1;") && page.contains("8.00×"), "{page}");
        assert!(page.contains("12.5 %") && page.contains("the launch is clean"), "{page}");
        assert!(!page.contains("http"), "nothing from elsewhere");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0, 9999, 12_345, 1_234_567].map(short), ["0", "9999", "12.3 k", "1.23 M"]);
    }
}
