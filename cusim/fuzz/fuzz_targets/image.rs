//! Bytes given as a module image, whatever they are, hold PTX text or are an error.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| {
    if let Some(start) = image.first_chunk() {
        let _ = cusim::image::image_len(start);
    }
    let _ = cusim::image::ptx_from_image(image, 80);
});
