//! The data pipeline: the token cache, shards, blocks, and what bad files are answered with.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use handloom_model::data::*;
use handloom_model::tokenizer::Tokenizer;

/// Counts how often and how much was tokenised, and keeps the notices.
#[derive(Default)]
struct Watch {
    runs: AtomicU64,
    total: AtomicU64,
    bytes: AtomicU64,
    notices: Mutex<Vec<String>>,
}

impl Progress for Watch {
    fn start(&self, _what: &str, total_bytes: u64) {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(total_bytes, Ordering::Relaxed);
    }
    fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    fn finish(&self) {}
    fn notice(&self, message: &str) {
        self.notices.lock().unwrap().push(message.to_owned());
    }
}

struct Bench {
    dir: tempfile::TempDir,
    tokenizer: Tokenizer,
    watch: Watch,
}

impl Bench {
    fn new(tokenizer: &str) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            tokenizer: Tokenizer::embedded(tokenizer).unwrap(),
            watch: Watch::default(),
        }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn cache_files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.cache()) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn open(&self, names: &[&str]) -> Result<TokenStream, DataError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        TokenStream::open(&names, Split::Train, &self.tokenizer, Some(&self.cache()), &self.watch)
    }

    fn error(&self, names: &[&str]) -> String {
        self.open(names).err().expect("an error").to_string()
    }

    /// How often something was tokenised so far.
    fn runs(&self) -> u64 {
        self.watch.runs.load(Ordering::Relaxed)
    }

    fn notices(&self) -> String {
        self.watch.notices.lock().unwrap().join("\n")
    }
}

fn all(stream: &TokenStream) -> Vec<i32> {
    let mut ids = vec![-1; stream.len() as usize];
    stream.fill(0, &mut ids);
    ids
}

/// "Hello world" of GPT-2, from the tests of the tokenizer.
const HELLO_WORLD: [i32; 2] = [15496, 995];
const END: i32 = 50256;

#[test]
fn documents_are_joined_with_the_end_of_text_token_before_each() {
    let bench = Bench::new("gpt2");
    let text = bench.file("a.txt", "Hello world");
    let lines = bench.file("b.jsonl", "{\"text\": \"Hello\"}\n\n{\"id\": 1, \"text\": \" world\"}");
    let stream = bench.open(&[&text, &lines]).unwrap();
    assert_eq!(stream.documents(), 3);
    assert_eq!(all(&stream), [END, HELLO_WORLD[0], HELLO_WORLD[1], END, HELLO_WORLD[0], END, HELLO_WORLD[1]]);
    // All bytes of all files were reported, JSON around the text included.
    let sizes = fs::metadata(&text).unwrap().len() + fs::metadata(&lines).unwrap().len();
    assert_eq!(bench.watch.total.load(Ordering::Relaxed), sizes);
    assert_eq!(bench.watch.bytes.load(Ordering::Relaxed), sizes);
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let bench = Bench::new("gpt2");
    let text = bench.file("a.txt", "\u{feff}Hello world");
    assert_eq!(all(&bench.open(&[&text]).unwrap()), [END, HELLO_WORLD[0], HELLO_WORLD[1]]);
    let lines = bench.file("b.jsonl", "\u{feff}{\"text\": \"Hello\"}\n{\"text\": \"Hello\"}");
    assert_eq!(all(&bench.open(&[&lines]).unwrap()), [END, HELLO_WORLD[0], END, HELLO_WORLD[0]]);
}

#[test]
fn the_cache_is_used_until_something_changes() {
    let bench = Bench::new("gpt2");
    let file = bench.file("a.txt", "Hello world");
    let first = all(&bench.open(&[&file]).unwrap());
    assert_eq!((bench.runs(), bench.cache_files().len()), (1, 1));
    assert_eq!(all(&bench.open(&[&file]).unwrap()), first);
    assert_eq!(bench.runs(), 1, "the second time nothing is tokenised");
    // The same content under another name, and touched: the same tokens.
    let copy = bench.file("copy.txt", "Hello world");
    bench.open(&[&copy]).unwrap();
    assert_eq!(bench.runs(), 1);
    // Same length and name, other content.
    bench.file("a.txt", "Hello World");
    assert_ne!(all(&bench.open(&[&file]).unwrap()), first);
    assert_eq!(bench.runs(), 2);
    // The content as JSON lines is other data than as text.
    bench.file("a.txt", "{\"text\": \"Hello\"}");
    let lines = bench.file("a.jsonl", "{\"text\": \"Hello\"}");
    assert_ne!(all(&bench.open(&[&file]).unwrap()), all(&bench.open(&[&lines]).unwrap()));
    assert_eq!(bench.runs(), 4);
    // Another tokenizer.
    let other = Tokenizer::embedded("austen").unwrap();
    TokenStream::open(&[file], Split::Train, &other, Some(&bench.cache()), &bench.watch).unwrap();
    assert_eq!(bench.runs(), 5);
    assert_eq!(bench.notices(), "");
}

#[test]
fn a_damaged_cache_is_noticed_and_made_again() {
    let bench = Bench::new("gpt2");
    let file = bench.file("a.txt", "Hello world, hello cache");
    let first = all(&bench.open(&[&file]).unwrap());
    let path = bench.cache_files().pop().unwrap();
    let good = fs::read(&path).unwrap();
    let mut damages = vec![(Vec::new(), "0 bytes"), (good[..100].to_vec(), "100 bytes")];
    damages.push((good[..good.len() - 1].to_vec(), "not what its header's"));
    damages.push(([&good[..], b"x"].concat(), "not what its header's"));
    for (at, says) in
        [(0, "token cache"), (17, "checksum"), (40, "checksum"), (good.len() - 1, "tokens' checksum")]
    {
        let mut damaged = good.clone();
        damaged[at] ^= 0x10;
        damages.push((damaged, says));
    }
    for (round, (damaged, says)) in damages.into_iter().enumerate() {
        fs::remove_file(&path).unwrap();
        fs::write(&path, damaged).unwrap();
        assert_eq!(all(&bench.open(&[&file]).unwrap()), first);
        assert_eq!(bench.runs(), round as u64 + 2);
        let notices = bench.notices();
        let last = notices.lines().last().unwrap();
        assert!(last.contains("is damaged") && last.contains(says), "damage {round}: {last}");
        assert_eq!(fs::read(&path).unwrap(), good, "damage {round}: the file is whole again");
    }
    assert_eq!(bench.cache_files(), [path], "no temporary files are left");
}

#[test]
fn without_a_writable_cache_tokens_stay_in_memory() {
    let bench = Bench::new("gpt2");
    let file = bench.file("a.txt", "Hello world");
    let names = [file.clone()];
    // A file where the directory should be: nobody can write there, not even root.
    let blocked = Path::new(&file).join("cache");
    for (cache, says) in
        [(Some(blocked.as_path()), "cannot use the token cache"), (None, "no cache directory")]
    {
        let stream = TokenStream::open(&names, Split::Train, &bench.tokenizer, cache, &bench.watch).unwrap();
        assert_eq!(all(&stream), [END, HELLO_WORLD[0], HELLO_WORLD[1]]);
        assert_eq!(stream.documents(), 1);
        assert!(bench.notices().lines().last().unwrap().contains(says), "{}", bench.notices());
    }
}

#[test]
fn many_at_once_build_one_cache() {
    let bench = Bench::new("gpt2");
    let text = "Hello world. ".repeat(20_000);
    let file = bench.file("a.txt", &text);
    let expected = bench.tokenizer.encode(&text).unwrap().len() as u64 + 1;
    std::thread::scope(|scope| {
        let open = || bench.open(&[&file]).unwrap();
        let builders: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        for builder in builders {
            assert_eq!(builder.join().unwrap().len(), expected);
        }
    });
    assert_eq!(bench.cache_files().len(), 1);
    assert_eq!(bench.notices(), "");
    let runs = bench.runs();
    assert_eq!(all(&bench.open(&[&file]).unwrap()).len() as u64, expected);
    assert_eq!(bench.runs(), runs);
}

#[test]
fn shards_come_back_and_mix_with_text() {
    let bench = Bench::new("gpt2");
    let ids: Vec<i32> = (0..1000).map(|i| if i % 100 == 0 { END } else { i * 50 }).collect();
    let prefix = bench.dir.path().join("ids");
    let paths = write_shards(&prefix, 1000, 400, |start, out| {
        out.copy_from_slice(&ids[start as usize..start as usize + out.len()]);
    })
    .unwrap();
    let names: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    assert!(names.len() == 3 && names[2].ends_with("ids_000002.bin"), "{names:?}");
    // The bytes of llm.c's format: magic 20240520 = 0x0134D888, version, count, and the first token after 1024 bytes.
    let bytes = fs::read(&paths[2]).unwrap();
    assert_eq!(bytes.len(), 1024 + 2 * 200);
    assert_eq!(bytes[..12], [0x88, 0xD8, 0x34, 0x01, 1, 0, 0, 0, 200, 0, 0, 0]);
    assert_eq!(bytes[1024..1026], [0x50, 0xC4], "token 800 is the end of text, 0xC450");
    let stream = bench.open(&names).unwrap();
    assert_eq!((stream.documents(), bench.runs()), (10, 0));
    assert_eq!(all(&stream), ids);

    let text = bench.file("a.txt", "Hello world");
    let mixed = bench.open(&[&text, names[0], &text, &text]).unwrap();
    let hello = [END, HELLO_WORLD[0], HELLO_WORLD[1]];
    assert_eq!(all(&mixed), [&hello, &ids[..400], &hello, &hello].concat());
    // Every stretch, over the borders of the segments.
    let whole = all(&mixed);
    for start in 0..whole.len() {
        for length in [0, 1, 5, 403] {
            let end = (start + length).min(whole.len());
            let mut part = vec![-1; end - start];
            mixed.fill(start as u64, &mut part);
            assert_eq!(part, whole[start..end], "{start}..{end}");
        }
    }
}

#[test]
fn bad_shards_are_refused() {
    let bench = Bench::new("austen");
    let prefix = bench.dir.path().join("good");
    let paths = write_shards(&prefix, 100, 1000, |_, out| out.fill(4095)).unwrap();
    let good = fs::read(&paths[0]).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let name = bench.file("bad.bin", bytes);
        bench.error(&[&name])
    };
    let cases: [(String, &str); 6] = [
        (refused(&|b| b[0] ^= 1), "magic number 20240521, expected 20240520"),
        (refused(&|b| b[4] = 2), "shard version 2, expected 1"),
        (refused(&|b| b.truncate(500)), "500 bytes, too short for the 1024-byte header"),
        (refused(&|b| b.truncate(1100)), "cut short: 1100 bytes, expected 1224 for the 100 tokens"),
        (refused(&|b| b.push(0)), "bytes after its last token: 1225 bytes, expected 1224"),
        (
            refused(&|b| b[1024 + 2 * 77 + 1] = 0x10),
            "token 77 is id 4351, beyond the tokenizer's 4096 tokens",
        ),
    ];
    for (error, says) in cases {
        assert!(error.contains("bad.bin") && error.contains(says), "{error}\nshould say: {says}");
    }
    assert!(bench.open(&[paths[0].to_str().unwrap()]).is_ok());
    let error = write_shards(&prefix, 1, 10, |_, out| out.fill(65_536)).unwrap_err().to_string();
    assert!(error.contains("16-bit"), "{error}");
}

#[test]
fn blocks_are_whole_and_the_rest_is_counted() {
    let bench = Bench::new("gpt2");
    // 1 end-of-text token and 999 words.
    let file = bench.file("a.txt", ["a"; 999].join(" "));
    let stream = || bench.open(&[&file]).unwrap();
    let blocks = Blocks::new(stream(), 128, None, "test").unwrap();
    assert_eq!((blocks.num_blocks(), blocks.block(), blocks.unused_tokens()), (7, 128, 1000 - 7 * 128));
    assert_eq!(
        blocks.to_string(),
        "7 blocks of 128 tokens from 1 document; 104 of 1000 tokens are in no block"
    );
    let whole = all(blocks.stream());
    for index in 0..7 {
        let mut block = [-1; 128];
        blocks.fill(index, &mut block);
        assert_eq!(block, whole[index * 128..(index + 1) * 128]);
    }
    let first = Blocks::new(stream(), 128, Some(3), "test").unwrap();
    assert_eq!((first.num_blocks(), first.unused_tokens()), (3, 1000 - 3 * 128));
    assert_eq!(Blocks::new(stream(), 128, Some(30), "test").unwrap().num_blocks(), 7);
    assert_eq!(Blocks::new(stream(), 1000, None, "test").unwrap().num_blocks(), 1);
    let error = Blocks::new(stream(), 1001, None, "the validation data").err().unwrap().to_string();
    assert!(error.contains("the validation data holds 1000 tokens, fewer than one block of 1001"), "{error}");
}

#[test]
fn the_default_is_the_embedded_corpus() {
    let bench = Bench::new("austen");
    let config = DataConfig { cache: Some(bench.cache()), ..DataConfig::default() };
    let train = config.open_train(&bench.tokenizer, &bench.watch).unwrap();
    let valid = config.open_valid(&bench.tokenizer, &bench.watch).unwrap().unwrap();
    assert_eq!((train.stream().documents(), valid.stream().documents()), (6, 6));
    let share = valid.stream().len() as f64 / (train.stream().len() + valid.stream().len()) as f64;
    assert!((0.045..0.055).contains(&share), "the held-out share is {share}");
    let end = bench.tokenizer.end_of_text().unwrap() as i32;
    assert_eq!(all(train.stream()).iter().filter(|&&id| id == end).count(), 6);
    // No novel's end is in both parts.
    let text = |blocks: &Blocks| {
        let ids: Vec<u32> = all(blocks.stream()).iter().map(|&id| id as u32).collect();
        bench.tokenizer.decode(&ids).unwrap()
    };
    let (train, valid) = (text(&train), text(&valid));
    assert!(
        train.contains("It is a truth universally acknowledged, that a single man in possession of a good")
    );
    for novel in valid.split("<|endoftext|>").skip(1) {
        assert!(!train.contains(&novel[..200]), "{:?}", &novel[..200]);
    }
    let none = DataConfig { valid: Vec::new(), ..config };
    assert!(none.open_valid(&bench.tokenizer, &bench.watch).unwrap().is_none());
}

#[test]
fn errors_say_file_place_and_remedy() {
    let bench = Bench::new("gpt2");
    let cases = [
        (bench.file("latin1.txt", b"caf\xe9 au lait"), "latin1.txt: not UTF-8 at byte offset 3 (byte 0xe9)"),
        (bench.file("empty.txt", ""), "empty.txt: the file is empty"),
        (bench.file("empty.jsonl", "\n\n"), "empty.jsonl: the file is empty"),
        (
            bench.file("a.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n"),
            "a.jsonl, line 2: missing field `text`",
        ),
        (
            bench.file("b.jsonl", "{\"text\": 5}"),
            "b.jsonl, line 1: invalid type: integer `5`, expected a string",
        ),
        (bench.file("c.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}"), "not UTF-8 at byte offset 24"),
        (bench.dir.path().to_str().unwrap().to_owned(), "is a directory; name the files in it"),
        #[cfg(unix)]
        ("/dev/null".to_owned(), "/dev/null: is a pipe or a device"),
        ("no/such/file.txt".to_owned(), "no/such/file.txt: cannot read it: No such file"),
        ("embedded:dickens".to_owned(), "no such embedded corpus"),
    ];
    for (name, says) in cases {
        let error = bench.error(&[&name]);
        assert!(error.contains(says), "{error}\nshould say: {says}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
    assert!(bench.error(&[]).contains("set data.train"));
    let error = DataConfig { block: 1, ..DataConfig::default() }.validate().unwrap_err().to_string();
    assert!(error.contains("data.block is 1; expected at least 2"), "{error}");
    let error = serde_json::from_str::<DataConfig>("{\"blocks\": 3}").unwrap_err().to_string();
    assert!(error.contains("unknown field `blocks`"), "{error}");
    assert_eq!(bench.cache_files(), Vec::<PathBuf>::new(), "nothing half-made stays behind");
}
