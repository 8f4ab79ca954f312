//! Compiles the .proto files with protox: no protoc has to be installed. A method that does not say who may call it does not
//! build.

use prost::Message;
use protox::{Compiler, prost_reflect::DynamicMessage};
use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 23] = [
    "access",
    "types",
    "enrollment",
    "agent",
    "client",
    "group",
    "policy",
    "question",
    "package",
    "terms",
    "approval",
    "job",
    "plan",
    "token",
    "transfer",
    "brake",
    "software",
    "window",
    "operator",
    "audit",
    "configuration",
    "event",
    "report",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let mut compiler = Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true);
    for name in FILES {
        let file = root.join(format!("sutler/v1/{name}.proto"));
        println!("cargo:rerun-if-changed={}", file.display());
        compiler.open_file(file)?;
    }
    every_method_says_who_may_call_it(&compiler)?;
    // As bytes: the types of prost know no extensions, and would drop what methods say of their callers.
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("sutler.bin"), compiler.encode_file_descriptor_set())?;
    let descriptors = prost_types::FileDescriptorSet::decode(compiler.encode_file_descriptor_set().as_slice())?;
    tonic_prost_build::configure()
        .bytes(".sutler.v1")
        .codec_path("crate::codec::SizedCodec")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}

fn every_method_says_who_may_call_it(compiler: &Compiler) -> Result<(), Box<dyn Error>> {
    let pool = compiler.descriptor_pool();
    let option = pool.get_extension_by_name("sutler.v1.access").ok_or("access.proto has no option `access`")?;
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let wrong = |why: &str| format!("{}: {why}; see proto/sutler/v1/access.proto", method.full_name());
        let options: DynamicMessage = method.options();
        if !options.has_extension(&option) {
            return Err(wrong("it does not say who may call it: `option (access) = {…};`").into());
        }
        let value = options.get_extension(&option);
        let access = value.as_message().ok_or_else(|| wrong("its access is no message"))?;
        let number = |field: &str| access.get_field_by_name(field).and_then(|v| v.as_enum_number()).unwrap_or_default();
        let roles = access.get_field_by_name("roles").and_then(|v| v.as_list().map(<[_]>::len)).unwrap_or_default();
        match (number("caller"), number("scope")) {
            (0, _) => return Err(wrong("it names no caller").into()),
            (3, 0) => return Err(wrong("a method for operators says what a scope means for it").into()),
            (3, _) => {}
            (_, scope) if scope != 0 || roles != 0 => return Err(wrong("only operators have roles and scopes").into()),
            _ => {}
        }
    }
    Ok(())
}
