//! What a program can hand to the driver as a module, damaged in every way: it is a program or an error, never
//! a panic. The functions are those of the fuzz targets in `fuzz/`, on the same corpus.

use cusim::image::{image_len, ptx_from_image};
use cusim::program::Program;
use cusim::ptx;
use proptest::prelude::*;

/// The files of a target's corpus.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let files = paths
        .iter()
        .map(|path| std::fs::read(path).expect("a file"));
    files.collect()
}

/// A change at a place, given as a fraction of the length.
#[derive(Debug, Clone)]
enum Change {
    Flip(f64, u8),
    Cut(f64, usize),
    /// What is at one place is put in at another.
    Repeat(f64, f64, usize),
    Insert(f64, Vec<u8>),
    End(f64),
}

fn change() -> impl Strategy<Value = Change> {
    let at = || 0.0..1.0;
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, bits)| Change::Flip(at, bits)),
        2 => (at(), 1..40_usize).prop_map(|(at, len)| Change::Cut(at, len)),
        2 => (at(), at(), 1..200_usize).prop_map(|(to, from, len)| Change::Repeat(to, from, len)),
        2 => (at(), prop::sample::select(WORDS)).prop_map(|(at, word)| Change::Insert(at, word.into())),
        1 => at().prop_map(Change::End),
    ]
}

/// What PTX is made of.
const WORDS: &[&str] = &[
    "{",
    "}",
    "(",
    ")",
    ";",
    ",",
    "@",
    "!",
    "|",
    "_",
    "-",
    "0",
    "0x",
    "0f",
    "18446744073709551615",
    "-1",
    "[",
    "]",
    ".b8",
    ".b128",
    ".v4",
    ".pred",
    ".param",
    ".shared",
    ".entry",
    ".func",
    ".reg .b32 %a<4294967295>;",
    "<",
    ">",
    ".global .align 16 .b8 x[1000000000000];",
    ".align 3",
    "ret;",
    "bra",
    "call",
    "$L:",
    "/*",
    "//",
    "\"",
    "\0",
    "é",
];

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let place = |fraction: f64| (fraction * bytes.len() as f64) as usize;
        match change {
            Change::Flip(at, bits) => {
                let at = place(*at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= bits;
                }
            }
            Change::Cut(at, len) => {
                let at = place(*at);
                bytes.drain(at..(at + len).min(bytes.len()));
            }
            Change::Repeat(to, from, len) => {
                let (to, from) = (place(*to), place(*from));
                let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
                bytes.splice(to..to, piece);
            }
            Change::Insert(at, word) => {
                let at = place(*at);
                bytes.splice(at..at, word.iter().copied());
            }
            Change::End(at) => bytes.truncate(place(*at)),
        }
    }
    bytes
}

fn damaged(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let file = prop::sample::select(corpus(target));
    let changes = prop::collection::vec(change(), 1..8);
    (file, changes).prop_map(|(file, changes)| changed(file, &changes))
}

fn load(bytes: &[u8]) -> Result<Program, String> {
    let text = String::from_utf8_lossy(bytes);
    let module = ptx::parse(&text).map_err(|error| error.to_string())?;
    Program::load(&module).map_err(|error| error.to_string())
}

#[test]
fn the_corpus_itself_is_sound() {
    for file in corpus("ptx") {
        ptx::parse(&String::from_utf8_lossy(&file)).expect("PTX");
    }
    let programs = corpus("ptx")
        .iter()
        .filter(|file| load(file).is_ok())
        .count();
    assert!(programs >= 3, "only {programs} are executable");
    let texts = corpus("image");
    assert!(texts.iter().any(|image| ptx_from_image(image, 80).is_ok()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn damaged_text_is_a_program_or_an_error(bytes in damaged("ptx")) {
        if let Err(message) = load(&bytes) {
            prop_assert!(message.contains("line"), "{message}");
        }
    }

    #[test]
    fn damaged_images_hold_text_or_are_errors(bytes in damaged("image")) {
        if let Some(start) = bytes.first_chunk() {
            let _ = image_len(start);
        }
        let _ = ptx_from_image(&bytes, 80);
    }
}
