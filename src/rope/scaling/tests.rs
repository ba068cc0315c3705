//! Worked numbers: published rules evaluated by hand or with the authors' formulas in f64.

use approx::assert_relative_eq;

use super::*;

/// Compares some pairs to a relative 1e-13.
fn assert_pairs(frequencies: &InvFreq, expected: &[(usize, f64)]) {
    let radians: Vec<f64> = frequencies.radians().collect();
    for &(pair, want) in expected {
        assert_relative_eq!(radians[pair], want, max_relative = 1e-13);
    }
}

#[test]
fn linear_divides() {
    // 10000^(-1/2) = 0.01 and 10000^(-1/4) = 0.1, over 4.
    let frequencies = linear(10_000.0, 8, 4.0).expect("valid");
    assert_pairs(&frequencies, &[(0, 0.25), (1, 0.025), (2, 0.0025)]);
    assert_eq!(frequencies.attention_factor(), 1.0);
}

#[test]
fn ntk_keeps_the_first_pair_and_slows_the_last_by_the_factor() {
    // Base 10000 * 8^(128/126) = 82684.62264056221.
    let frequencies = ntk(10_000.0, 128, 8.0).expect("valid");
    let last = 10_000f64.powf(-126.0 / 128.0) / 8.0;
    assert_pairs(
        &frequencies,
        &[
            (0, 1.0),
            (1, 0.837_848_001_918_802_4),
            (32, 0.003_477_664_048_114_574),
            (63, last),
        ],
    );
}

#[test]
fn dynamic_ntk_grows_with_the_sequence() {
    let at = |seqlen| dynamic_ntk(10_000.0, 128, 2.0, 4096, seqlen).expect("valid");
    assert_eq!(at(100), unscaled(10_000.0, 128).expect("valid"));
    assert_eq!(at(4096), at(100));
    // 2 * 16384 / 4096 - 1 = 7: base 10000 * 7^(128/126) = 72195.86008650938.
    assert_pairs(
        &at(16_384),
        &[(1, 0.839_625_742_564_311_4), (63, 1.649_688_549_556_369e-5)],
    );
}

#[test]
fn yarn_interpolates_slow_pairs_only() {
    // The ramp of base 10000, 128 elements and a context of 4096 goes from pair floor(20.9) to ceil(45.03).
    let frequencies = yarn(10_000.0, 128, &Yarn::new(16.0, 4096)).expect("valid");
    assert_pairs(
        &frequencies,
        &[
            (0, 1.0),
            (20, 0.056_234_132_519_034_91),
            (21, 0.046_940_859_997_959_404),
            (30, 0.008_526_843_772_967_41),
            (45, 0.000_151_771_604_731_824_9),
            (46, 8.334_508_951_020_775e-5),
            (63, 7.217_387_404_309_114e-6),
        ],
    );
    assert_relative_eq!(
        frequencies.attention_factor(),
        1.277_258_872_223_978_2,
        max_relative = 1e-15
    );
    assert_eq!(yarn_attention_factor(0.5, 1.0), 1.0);
    // DeepSeek-V2: mscale and mscale_all_dim both 0.707 leave cosines and sines as they are.
    let both = yarn_attention_factor(40.0, 0.707) / yarn_attention_factor(40.0, 0.707);
    assert_eq!(both, 1.0);
}

#[test]
fn llama_blends_between_two_wavelengths() {
    // Llama 3.1: wavelengths below 2048 stay, above 8192 are stretched by 8.
    let options = Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: 8192,
    };
    let frequencies = llama3(500_000.0, 128, &options).expect("valid");
    assert_pairs(
        &frequencies,
        &[
            (0, 1.0),
            (28, 0.003_211_445_994_752_591),
            (29, 0.002_166_570_763_503_359),
            (30, 0.001_371_893_567_761_138_1),
            (32, 0.000_524_846_160_992_954_7),
            (34, 0.000_178_507_812_767_996_4),
            (35, 9.556_212_353_964_683e-5),
            (36, 7.784_655_273_932_45e-5),
            (63, 3.068_925_988_914_511e-7),
        ],
    );
}

#[test]
fn long_rope_has_two_lists() {
    let (short, long) = ([1.0, 2.0], [4.0, 50.0]);
    let options = LongRope {
        short_factor: &short,
        long_factor: &long,
        original_max_position: 4096,
        max_position: 131_072,
        attention_factor: None,
    };
    let at = |seqlen| long_rope(10_000.0, 4, &options, seqlen).expect("valid");
    assert_pairs(&at(4096), &[(0, 1.0), (1, 0.005)]);
    assert_pairs(&at(4097), &[(0, 0.25), (1, 0.000_2)]);
    // Phi-3: sqrt(1 + ln 32 / ln 4096).
    assert_relative_eq!(
        at(1).attention_factor(),
        1.190_238_071_423_808_3,
        max_relative = 1e-15
    );
}

/// What a double-double frequency is for: at position 2^31 an angle from f64 frequencies is off by up to 2^-22.
#[test]
fn scaled_frequencies_keep_twice_the_precision() {
    let exact = linear(10_000.0, 128, 3.0).expect("valid").exact()[1];
    let back = exact.times(3.0);
    let unscaled = unscaled(10_000.0, 128).expect("valid").exact()[1];
    let difference = back.add(unscaled.times(-1.0));
    assert!((difference.hi + difference.lo).abs() < 1e-30);
}

#[test]
fn options_without_meaning_are_named() {
    let name = |result: Result<InvFreq, Error>| match result {
        Err(Error::InvalidOption { name, .. }) => name,
        Err(Error::ShapeMismatch { operand, .. }) => operand,
        other => panic!("{other:?}"),
    };
    assert_eq!(name(unscaled(0.0, 8)), "base");
    assert!(matches!(unscaled(1e4, 7), Err(Error::Unsupported(_))));
    assert_eq!(name(linear(1e4, 8, 0.0)), "factor");
    assert_eq!(name(ntk(1e4, 2, 2.0)), "rotary_dim");
    assert_eq!(name(ntk(1e4, 8, f64::NAN)), "factor");
    assert_eq!(
        name(dynamic_ntk(1e4, 8, 2.0, 0, 5)),
        "original_max_position"
    );
    let yarn_options = Yarn::new(4.0, 4096);
    assert_eq!(name(yarn(1.0, 8, &yarn_options)), "base");
    let zero = Yarn {
        beta_fast: 0.0,
        ..yarn_options
    };
    assert_eq!(name(yarn(1e4, 8, &zero)), "beta_fast");
    let negative = Yarn {
        attention_factor: Some(-1.0),
        ..yarn_options
    };
    assert_eq!(name(yarn(1e4, 8, &negative)), "attention_factor");
    let llama = Llama3 {
        factor: 8.0,
        low_freq_factor: 4.0,
        high_freq_factor: 4.0,
        original_max_position: 8192,
    };
    assert_eq!(name(llama3(1e4, 8, &llama)), "high_freq_factor");
    let long = LongRope {
        short_factor: &[1.0],
        long_factor: &[0.0],
        original_max_position: 4096,
        max_position: 8192,
        attention_factor: None,
    };
    assert_eq!(name(long_rope(1e4, 4, &long, 1)), "short_factor");
    assert_eq!(name(long_rope(1e4, 2, &long, 1)), "long_factor");
    assert_eq!(name(InvFreq::new(&[f64::INFINITY])), "inv_freq");
}
