//! Names the shared library. Programs ask the loader for `libcuda.so`; a library of that SONAME which
//! is already open answers for it, whatever its file is called.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
        // Calls inside the library stay inside it, even when another driver was loaded first.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    }
}
