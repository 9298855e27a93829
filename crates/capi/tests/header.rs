//! `include/fusec.h` is what cbindgen makes of the library. `cargo xtask bless` writes it.

use std::fs;
use std::path::Path;

#[test]
fn the_header_is_that_of_the_library() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("a configuration");
    let bindings = cbindgen::Builder::new()
        .with_src(root.join("src/lib.rs"))
        .with_config(config)
        .generate()
        .expect("bindings");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let made = String::from_utf8(made).expect("text");
    let path = root.join("include/fusec.h");
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        fs::write(&path, &made).expect("the header is written");
    }
    let header = fs::read_to_string(&path).expect("the header");
    assert!(
        header == made,
        "{} differs: cargo xtask bless",
        path.display()
    );
}
