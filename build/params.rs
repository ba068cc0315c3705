//! `kernels/params.h` as Rust, and the probes that prove both compilers lay it out alike.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::provision::{LIBCLANG, Toolchain};

/// Set for the child process that runs bindgen: where it writes.
pub const CHILD: &str = "FERROFLASH_BINDGEN_OUT";

const HEADER: &str = "kernels/params.h";
const SNAPSHOT: &str = "build/params_snapshot.rs";

/// The bindings that were generated when params.h last changed, for builds without a C toolchain.
/// A test keeps them equal to what bindgen makes.
pub fn use_snapshot(out: &Path) -> Result<(), String> {
    copy(Path::new(SNAPSHOT), &out.join("params.rs"))
}

/// Generates the bindings and the layout probes' list of fields, and runs the C probe.
pub fn generate(out: &Path, work: &Path, toolchain: Option<&Toolchain>) -> Result<(), String> {
    let bindings = out.join("params.rs");
    run_bindgen(&bindings, toolchain)?;
    let text = read(&bindings)?;
    let fields = fields(&text);

    let generated = work.join("generated");
    fs::create_dir_all(&generated).map_err(|e| format!("{}: {e}", generated.display()))?;
    let mut header = String::new();
    let mut rust = String::from("[\n");
    for (block, members) in &fields {
        header.push_str(&format!("BLOCK({block})\n"));
        rust.push_str(&format!("    ({block:?}, size_of::<{block}>()),\n"));
        for member in members {
            header.push_str(&format!("FIELD({block}, {member})\n"));
            rust.push_str(&format!(
                "    (\"{block}.{member}\", std::mem::offset_of!({block}, {member})),\n"
            ));
        }
    }
    rust.push(']');
    write_if_changed(&generated.join("layout_fields.h"), &header)?;
    write_if_changed(&out.join("rust_layout.rs"), &rust)?;
    let c_layout = probe_c(out, &generated)?;
    write_if_changed(&out.join("c_layout.rs"), &c_layout)
}

/// bindgen finds libclang through the environment only, and changing one's own environment is
/// unsafe; so it runs in a child process: this same program, told so by [`CHILD`].
fn run_bindgen(bindings: &Path, toolchain: Option<&Toolchain>) -> Result<(), String> {
    let child = |libclang: Option<PathBuf>| {
        let this = env::current_exe().map_err(|e| format!("cannot find the build script: {e}"))?;
        let mut command = Command::new(this);
        command.env(CHILD, bindings);
        if let Some(path) = libclang {
            command.env("LIBCLANG_PATH", path);
        }
        let output = command
            .output()
            .map_err(|e| format!("cannot run {command:?}: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let error = match child(None) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    match toolchain {
        Some(toolchain) => {
            let site = toolchain.install(LIBCLANG)?;
            child(Some(site.join("clang").join("native")))
        }
        None => Err(format!(
            "{error}\nferroflash: bindgen needs libclang: install it (package libclang-dev or \
             llvm), or set LIBCLANG_PATH, or set FERROFLASH_PROVISION=1"
        )),
    }
}

/// Runs bindgen in this process.
pub fn generate_here(bindings: &Path) -> Result<(), String> {
    bindgen::Builder::default()
        .header(HEADER)
        .allowlist_type("fflash_.*")
        .allowlist_var("FFLASH_.*")
        .derive_debug(true)
        .layout_tests(false)
        .disable_header_comment()
        .generate()
        .map_err(|e| format!("{HEADER}: {e}"))?
        .write_to_file(bindings)
        .map_err(|e| format!("{}: {e}", bindings.display()))
}

/// The structs of the bindings with their members, in order.
fn fields(bindings: &str) -> Vec<(String, Vec<String>)> {
    let mut blocks: Vec<(String, Vec<String>)> = Vec::new();
    for line in bindings.lines() {
        if let Some(name) = line.strip_prefix("pub struct ") {
            let name = name.split_whitespace().next().unwrap_or_default();
            blocks.push((name.to_owned(), Vec::new()));
        } else if let Some(member) = line.strip_prefix("    pub ")
            && let Some((member, _)) = member.split_once(':')
            && let Some((_, members)) = blocks.last_mut()
        {
            members.push(member.to_owned());
        }
    }
    blocks
}

/// Compiles and runs the probe with the host compiler; it prints sizes and offsets as Rust.
fn probe_c(out: &Path, generated: &Path) -> Result<String, String> {
    let compiler = cc::Build::new()
        .try_get_compiler()
        .map_err(|e| format!("no C compiler was found: {e}"))?;
    let probe = out.join("layout_probe");
    let mut command = compiler.to_command();
    command.arg("-Ikernels").arg("-I").arg(generated);
    command.args(["build/layout_probe.c", "-o"]).arg(&probe);
    for command in [&mut command, &mut Command::new(&probe)] {
        let output = command
            .output()
            .map_err(|e| format!("cannot run {command:?}: {e}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        if !output.stdout.is_empty() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
    }
    Err("the layout probe printed nothing".to_owned())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to)
        .map(drop)
        .map_err(|e| format!("{}: {e}", from.display()))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Keeps the time stamp of a file that would not change, so that nothing is rebuilt for it.
fn write_if_changed(path: &Path, text: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
