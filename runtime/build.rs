//! Builds the tiny init (src/init) as a static program without libc, whatever the profile of `berth` itself, so
//! that it can be included in `berth`. Three crates: the raw system calls (the only unsafe code), the program
//! (forbids unsafe code), and the entry point.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Address of the segment for the plan, as in link.ld.
const PLAN_ADDRESS: u64 = 0x2000_0000;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for path in ["build.rs", "sys/src/raw", "sys/start", "src/init", "src/wire"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rustc-check-cfg=cfg(berth_init)");
    println!(
        "cargo::rustc-env=BERTH_SECCOMP_SOURCE={:016x}",
        compiler_of_filters()?
    );
    library(&out, "berth_sys_raw", "sys/src/raw/crate.rs", &[])?;
    library(&out, "berth_init", "src/init/lib.rs", &["--cfg", "berth_init"])?;
    let program = out.join("berth-init");
    let script = Path::new("src/init/link.ld").canonicalize()?;
    let mut rustc = compiler(&out)?;
    rustc
        .args(["--crate-type", "bin", "--crate-name", "berth_init_start"])
        .args([
            "-C",
            "panic=abort",
            "-C",
            "relocation-model=static",
            "-C",
            "lto=fat",
        ])
        .args(["-C", "strip=symbols", "-C", "target-feature=+crt-static"])
        .args([
            "-C",
            "link-arg=-nostartfiles",
            "-C",
            "link-arg=-nostdlib",
            "-C",
            "link-arg=-static",
        ])
        .arg("-C")
        .arg(format!(
            "link-arg=-Wl,-T,{},--build-id=none,-z,noexecstack,-z,max-page-size=4096",
            script.display()
        ))
        .args(externs(&out, &["berth_sys_raw", "berth_init"]))
        .arg("-o")
        .arg(&program)
        .arg("sys/start/main.rs");
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    run(rustc)?;
    let image = fs::read(&program)?;
    let header = plan_header(&image).ok_or("the init program has no segment for the plan")?;
    fs::write(
        out.join("init.rs"),
        format!(
            "/// The tiny init, an ELF program.\nconst PROGRAM: &[u8] = include_bytes!(\"{}\");\n\
             /// Where the program header of the plan's segment stands in it.\nconst PLAN_HEADER: usize = {header};\n",
            program.display()
        ),
    )?;
    Ok(())
}

/// A hash (FNV-1a) of the source that makes seccomp filters: filters that another compiler made are not used.
fn compiler_of_filters() -> Result<u64, Box<dyn Error>> {
    let mut files = vec![PathBuf::from("spec/src/seccomp.rs")];
    for entry in fs::read_dir("src/seccomp")? {
        files.push(entry?.path());
    }
    files.retain(|path| path.is_file());
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for path in files {
        println!("cargo::rerun-if-changed={}", path.display());
        for byte in fs::read(path)? {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(hash)
}

fn compiler(out: &Path) -> Result<Command, Box<dyn Error>> {
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc
        .args(["--edition", "2024", "--target", &env::var("TARGET")?])
        .args(["-C", "opt-level=s", "-C", "codegen-units=1", "-C", "debuginfo=0"])
        .args(["-C", "force-unwind-tables=no", "--cap-lints", "allow"])
        .arg("-L")
        .arg(out);
    Ok(rustc)
}

fn library(out: &Path, name: &str, root: &str, more: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut rustc = compiler(out)?;
    rustc
        .args(["--crate-type", "rlib", "--crate-name", name, "-C", "panic=abort"])
        .args(["-C", "relocation-model=static", "-C", "embed-bitcode=yes"])
        .args(more)
        .arg("-o")
        .arg(out.join(format!("lib{name}.rlib")))
        .arg(root);
    if name == "berth_init" {
        rustc.args(externs(out, &["berth_sys_raw"]));
    }
    run(rustc)
}

fn externs(out: &Path, names: &[&str]) -> Vec<String> {
    let library = |name: &&str| format!("{name}={}", out.join(format!("lib{name}.rlib")).display());
    names
        .iter()
        .flat_map(|name| ["--extern".to_owned(), library(name)])
        .collect()
}

fn run(mut command: Command) -> Result<(), Box<dyn Error>> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    eprintln!("{command:?} failed:\n{text}");
    Err("the tiny init could not be built".into())
}

/// Finds the program header of the plan's segment (elf(5), 64-bit, little endian).
fn plan_header(image: &[u8]) -> Option<usize> {
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = image.get(at..at + length)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte)),
        )
    };
    let table = number(32, 8)? as usize;
    let size = number(54, 2)? as usize;
    let count = number(56, 2)? as usize;
    (0..count)
        .map(|index| table + index * size)
        .find(|at| number(at + 16, 8) == Some(PLAN_ADDRESS))
}
