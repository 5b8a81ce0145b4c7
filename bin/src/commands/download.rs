//! Downloading data sets. The only place where Handloom uses the network.

use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::time::Duration;

use handloom_model::data::{Progress, write_atomic};

use super::progress::Bar;

/// The hub, unless `HF_ENDPOINT` names a mirror of it.
const HUB: &str = "https://huggingface.co";
/// The data set's original archive. (`Salesforce/wikitext` itself serves Parquet only.)
const WIKITEXT_2: &str = "datasets/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip";
/// The archive has 4.7 MB; a reply far beyond that is not it.
const LARGEST_ARCHIVE: u64 = 64 << 20;

const PARTS: [&str; 3] = ["wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"];

/// Fetches WikiText-2 (raw) and writes its three text files to `dir`.
pub fn wikitext_2(dir: &Path, out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    let hub = std::env::var("HF_ENDPOINT").ok().filter(|hub| !hub.is_empty());
    let url = format!("{}/{WIKITEXT_2}", hub.as_deref().unwrap_or(HUB).trim_end_matches('/'));
    let advice = "with the files from elsewhere, use --set data.train='[\"wiki.train.raw\"]' \
                  --set data.valid='[\"wiki.valid.raw\"]'";
    let failed = |cause: String| format!("data download wikitext-2: cannot fetch {url}: {cause}; {advice}");
    let archive = fetch(&url).map_err(failed)?;
    let files = unpack(&archive).map_err(|cause| {
        format!("data download wikitext-2: {url} gave something other than WikiText-2's zip archive: {cause}; {advice}")
    })?;
    std::fs::create_dir_all(dir).map_err(|e| format!("data download: cannot make {}: {e}", dir.display()))?;
    for (name, text) in PARTS.iter().zip(&files) {
        let path = dir.join(name);
        write_atomic(&path, |file| file.write_all(text.as_bytes()))
            .map_err(|e| format!("data download: cannot write {}: {e}", path.display()))?;
        writeln!(out, "{}: {} bytes", path.display(), text.len())?;
    }
    let [train, valid, _] = PARTS.map(|name| dir.join(name).display().to_string());
    writeln!(out, "use it with --set data.train='[\"{train}\"]' --set data.valid='[\"{valid}\"]'")?;
    Ok(())
}

fn fetch(url: &str) -> Result<Vec<u8>, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_global(Some(Duration::from_secs(600)))
        .build()
        .into();
    let mut reply = agent.get(url).call().map_err(|e| e.to_string())?;
    let bar = Bar::default();
    bar.start("downloading", reply.body().content_length().unwrap_or(0));
    let mut reader = reply.body_mut().with_config().limit(LARGEST_ARCHIVE).reader();
    let mut bytes = Vec::new();
    let mut buffer = [0; 1 << 16];
    loop {
        let read = reader.read(&mut buffer).map_err(|e| e.to_string())?;
        if read == 0 {
            break;
        }
        bytes.extend(&buffer[..read]);
        bar.advance(read as u64);
    }
    bar.finish();
    Ok(bytes)
}

/// The three parts, wherever in the archive they lie. Reading a member checks its CRC-32.
fn unpack(archive: &[u8]) -> Result<Vec<String>, String> {
    let mut zip = zip::ZipArchive::new(Cursor::new(archive)).map_err(|e| e.to_string())?;
    let names: Vec<String> = zip.file_names().flatten().map(|name| name.into_owned()).collect();
    let read_part = |part: &&str| {
        let name = names.iter().find(|name| name.rsplit('/').next() == Some(part));
        let name = name.ok_or_else(|| format!("it holds no {part}"))?;
        let mut text = String::new();
        let mut member = zip.by_name(name).map_err(|e| e.to_string())?;
        member.read_to_string(&mut text).map_err(|e| format!("{name}: {e}"))?;
        Ok(text)
    };
    PARTS.iter().map(read_part).collect()
}
