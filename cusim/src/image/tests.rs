//! Images that nvcc wrote, images made here, and damaged ones.

use proptest::prelude::*;

use super::*;

const PLAIN: &[u8] = include_bytes!("../../tests/fixtures/add_one_plain.fatbin");
const LZ4: &[u8] = include_bytes!("../../tests/fixtures/add_one_lz4.fatbin");
const ZSTD: &[u8] = include_bytes!("../../tests/fixtures/add_one_zstd.fatbin");
const CUBIN: &[u8] = include_bytes!("../../tests/fixtures/add_one_cubin_only.fatbin");

/// A fat binary of entries: kind, architecture, payload.
fn fat_binary(entries: &[(u16, u32, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for &(kind, arch, payload) in entries {
        let mut header = [0; 64];
        header[..2].copy_from_slice(&kind.to_le_bytes());
        header[4..8].copy_from_slice(&64u32.to_le_bytes());
        header[8..16].copy_from_slice(&(payload.len() as u64 + 3).to_le_bytes());
        header[28..32].copy_from_slice(&arch.to_le_bytes());
        body.extend(header);
        body.extend(payload.as_bytes());
        body.extend([0; 3]);
    }
    let mut image = vec![0x50, 0xED, 0x55, 0xBA, 1, 0, 16, 0];
    image.extend((body.len() as u64).to_le_bytes());
    image.extend(body);
    image
}

#[test]
fn every_compression_gives_the_same_text() {
    let plain = ptx_from_image(PLAIN, 80).expect("uncompressed");
    assert!(plain.contains(".visible .entry addone"), "{plain}");
    crate::ptx::parse(&plain).expect("PTX");
    assert_eq!(ptx_from_image(LZ4, 80).expect("LZ4"), plain);
    assert_eq!(ptx_from_image(ZSTD, 80).expect("zstd"), plain);
}

#[test]
fn the_header_tells_the_length() {
    for image in [PLAIN, LZ4, ZSTD, CUBIN] {
        let start = image.first_chunk().expect("a header");
        assert_eq!(image_len(start), Ok(Some(image.len())));
    }
    assert_eq!(image_len(b".version 9.0\n   "), Ok(None));
    let mut absurd: [u8; 16] = *PLAIN.first_chunk().expect("a header");
    absurd[8..].fill(0xFF);
    assert!(image_len(&absurd).is_err());
    // What follows the image in memory is not part of it.
    let longer = [PLAIN, b"rest"].concat();
    assert!(ptx_from_image(&longer, 80).is_ok());
}

#[test]
fn the_highest_ptx_that_the_device_runs_is_taken() {
    let image = fat_binary(&[
        (2, 90, "ELF"),
        (1, 75, ".target sm_75"),
        (1, 90, "// a\n  .target sm_90a, debug\n"),
        (1, 90, ".target\tsm_90"),
        (1, 100, ".target sm_100f"),
        (1, 103, ".target sm_103a"),
    ]);
    for (device, wanted) in [
        (75, "sm_75"),
        (80, "sm_75"),
        (89, "sm_75"),
        (90, "sm_90a"),
        (100, "sm_100f"),
        (103, "sm_103a"),
        (110, "sm_90"),
        (120, "sm_90"),
    ] {
        let text = ptx_from_image(&image, device).expect(wanted);
        assert_eq!(target_of(&text), wanted, "sm_{device}");
    }
}

#[test]
fn ptx_for_other_devices_is_refused() {
    assert_eq!(
        ptx_from_image(PLAIN, 75),
        Err(ImageError::TooNew {
            targets: "sm_80".to_owned(),
            device: 75
        })
    );
    let image = fat_binary(&[(1, 90, ".target sm_90a"), (1, 120, ".target sm_120")]);
    let error = ptx_from_image(&image, 100).expect_err("neither fits");
    assert_eq!(
        error.to_string(),
        "the image's PTX is for sm_120, sm_90a, the device is sm_100"
    );
}

#[test]
fn what_is_no_ptx_is_named() {
    let no_ptx = |what: &str| Err(ImageError::NoPtx(what.to_owned()));
    assert_eq!(ptx_from_image(CUBIN, 80), no_ptx("machine code for sm_80"));
    let image = fat_binary(&[(2, 80, "ELF"), (8, 90, "IR")]);
    assert_eq!(
        ptx_from_image(&image, 80),
        no_ptx("machine code for sm_80, intermediate code for sm_90")
    );
    assert_eq!(ptx_from_image(&fat_binary(&[]), 80), no_ptx("its header"));
    assert_eq!(
        ptx_from_image(b"\x7fELF\x02\x01\x01\x33", 80),
        no_ptx("machine code (an ELF image)")
    );
}

#[test]
fn text_is_taken_up_to_its_end() {
    assert_eq!(
        ptx_from_image(b".version 9.0\0rest", 80).as_deref(),
        Ok(".version 9.0")
    );
    assert_eq!(ptx_from_image(b"", 80).as_deref(), Ok(""));
    assert!(matches!(
        ptx_from_image(b"\xff\xfe", 80),
        Err(ImageError::Malformed(_))
    ));
}

#[test]
fn targets_have_their_own_rules() {
    for (target, runs, does_not) in [
        ("sm_80", &[80, 86, 90, 120][..], &[75][..]),
        ("sm_90a", &[90], &[80, 100, 120]),
        ("sm_100f", &[100, 103], &[90, 110, 120]),
        ("compute_80", &[], &[80]),
        ("sm_", &[], &[80]),
        ("", &[], &[80]),
    ] {
        assert!(runs.iter().all(|&sm| runs_on(target, sm)), "{target}");
        assert!(!does_not.iter().any(|&sm| runs_on(target, sm)), "{target}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    for image in [PLAIN, LZ4, ZSTD] {
        for length in 4..image.len() {
            let truncated = ptx_from_image(&image[..length], 80);
            assert!(
                matches!(truncated, Err(ImageError::Truncated(_))),
                "{length} bytes: {truncated:?}"
            );
        }
    }
}

/// The PTX entry of a fixture, whose fields some of the tests below spoil.
fn ptx_entry(image: &[u8]) -> usize {
    let mut at = 16;
    while image[at] != 1 {
        let field =
            |from: usize| usize::from(image[at + from]) | usize::from(image[at + from + 1]) << 8;
        at += field(4) + field(8);
    }
    at
}

#[test]
fn sizes_that_contradict_the_text_are_errors() {
    for image in [LZ4, ZSTD] {
        let at = ptx_entry(image);
        for (field, value) in [
            // Compressed bytes: more than there are, fewer than there are.
            (16, u32::MAX),
            (16, 20),
            // Decompressed bytes: more than there are, absurdly many.
            (56, 100_000),
            (60, 1),
        ] {
            let mut image = image.to_vec();
            image[at + field..][..4].copy_from_slice(&value.to_le_bytes());
            let result = ptx_from_image(&image, 80);
            assert!(result.is_err(), "{field} {value}: {result:?}");
        }
        let mut image = image.to_vec();
        image[at + 4..][..4].copy_from_slice(&63u32.to_le_bytes());
        let malformed = |why| Err(ImageError::Malformed(why));
        let short = malformed("an entry's header is too short");
        assert_eq!(ptx_from_image(&image, 80), short);
        image[at + 4..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let overrun = malformed("an entry reaches beyond its end");
        assert_eq!(ptx_from_image(&image, 80), overrun);
    }
}

proptest! {
    #[test]
    fn damaged_images_do_not_panic(
        which in 0..3usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..8),
    ) {
        let mut image = [PLAIN, LZ4, ZSTD][which].to_vec();
        // Half of it in the header and payload of the PTX, where it matters.
        let start = ptx_entry(&image);
        for (at, value, in_ptx) in damage {
            let from = if in_ptx { start } else { 0 };
            let at = from + at.index(image.len() - from);
            image[at] = value;
        }
        let _ = ptx_from_image(&image, 80);
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = ptx_from_image(&bytes, 80);
        let _ = ptx_from_image(&[&PLAIN[..8], &bytes].concat(), 80);
    }
}
