//! Trust policies: keys and signatures are made here, in the form that cosign gives them.

use super::Lab;
use super::image::{
    Image, OCI_INDEX, OCI_MANIFEST, Packing, architecture, digest, files, index, put_blob, put_manifest,
};
use super::server::{Auth, Registry};
use base64::Engine as _;
use harness::{need_program, need_root, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A signer: a key pair on disk, made by openssl as cosign makes its own.
struct Signer {
    private: PathBuf,
    public: PathBuf,
}

impl Signer {
    fn new(dir: &Path, name: &str, algorithm: &[&str]) -> Self {
        let (private, public) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pub")));
        run(Command::new("openssl")
            .arg("genpkey")
            .args(algorithm)
            .arg("-out")
            .arg(&private))
        .ok();
        run(Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(&private)
            .arg("-out")
            .arg(&public))
        .ok();
        Self { private, public }
    }

    fn sign(&self, payload: &[u8]) -> String {
        let file = self.private.with_extension("payload");
        std::fs::write(&file, payload).expect("write");
        let out = self.private.with_extension("signature");
        run(Command::new("openssl")
            .args(["dgst", "-sha256", "-sign"])
            .arg(&self.private)
            .arg("-out")
            .arg(&out)
            .arg(&file))
        .ok();
        base64::engine::general_purpose::STANDARD.encode(std::fs::read(out).expect("a signature"))
    }

    /// Signs an image for a name, and leaves the signature where cosign does.
    fn attach(&self, registry: &Registry, repository: &str, image: &str, reference: &str) {
        let payload = statement(image, reference);
        self.attach_payload(registry, repository, image, &payload);
    }

    fn attach_payload(&self, registry: &Registry, repository: &str, image: &str, payload: &[u8]) {
        put_blob(registry.port, repository, payload);
        put_blob(registry.port, repository, b"{}");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2},
            "layers": [{
                "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                "digest": digest(payload), "size": payload.len(),
                "annotations": {"dev.cosignproject.cosign/signature": self.sign(payload)},
            }],
        });
        let tag = format!("{}.sig", image.replace(':', "-"));
        put_manifest(
            registry.port,
            repository,
            &tag,
            OCI_MANIFEST,
            manifest.to_string().as_bytes(),
        );
    }
}

fn statement(image: &str, reference: &str) -> Vec<u8> {
    json!({
        "critical": {
            "identity": {"docker-reference": reference},
            "image": {"docker-manifest-digest": image},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
    .into_bytes()
}

fn sample(text: &str) -> Image {
    Image::new(&[(files(&[("a", text.as_bytes())]), Packing::Gzip)])
}

fn policy(lab: &Lab, scopes: &Value) {
    let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": scopes}});
    lab.write("policy.json", &policy.to_string());
}

#[test]
fn only_what_is_signed_with_the_right_key_is_pulled() {
    need_root!();
    need_program!("docker-registry");
    need_program!("openssl");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    let dir = lab.node.path().to_owned();
    let p256 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let ours = Signer::new(&dir, "ours", &p256);
    let theirs = Signer::new(&dir, "theirs", &p256);
    let rsa = Signer::new(
        &dir,
        "rsa",
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    );
    let host = registry.host();
    let required = |signer: &Signer, identity: &str| json!([{"type": "sigstoreSigned", "keyPath": signer.public, "signedIdentity": {"type": identity}}]);
    policy(
        &lab,
        &json!({
            format!("{host}/signed"): required(&ours, "matchRepository"),
            format!("{host}/exact"): required(&ours, "matchExact"),
            format!("{host}/rsa"): required(&rsa, "matchRepository"),
            format!("{host}/open"): [{"type": "insecureAcceptAnything"}],
            format!("{host}/gpg"): [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
        }),
    );
    for repository in ["signed", "exact", "rsa", "open", "gpg", "other"] {
        sample(repository).push(registry.port, repository, "1");
    }
    let name = |repository: &str| format!("{host}/{repository}:1");
    let own = |repository: &str| sample(repository).digest();

    lab.pull(&name("open"));
    assert!(lab.refused(&name("other")).contains("the trust policy rejects"));
    assert!(lab.refused(&name("gpg")).contains("signedBy"));
    assert!(lab.refused(&name("signed")).contains("requires a signature"));
    // Somebody else's key, another image, another repository, a forged statement.
    theirs.attach(&registry, "signed", &own("signed"), &format!("{host}/signed"));
    assert!(lab.refused(&name("signed")).contains("another key"));
    ours.attach_payload(
        &registry,
        "signed",
        &own("signed"),
        &statement(&own("other"), &format!("{host}/signed")),
    );
    assert!(lab.refused(&name("signed")).contains("for another image"));
    ours.attach(&registry, "signed", &own("signed"), &format!("{host}/elsewhere"));
    assert!(lab.refused(&name("signed")).contains("for the name"));
    ours.attach_payload(&registry, "signed", &own("signed"), b"{\"critical\":{}}");
    assert!(lab.refused(&name("signed")).contains("malformed"));
    ours.attach(&registry, "signed", &own("signed"), &format!("{host}/signed"));
    lab.pull(&name("signed"));
    // A signature of another kind of key, and one that must name the tag.
    rsa.attach(&registry, "rsa", &own("rsa"), &format!("{host}/rsa"));
    lab.pull(&name("rsa"));
    ours.attach(&registry, "exact", &own("exact"), &format!("{host}/exact:2"));
    assert!(lab.refused(&name("exact")).contains("for the name"));
    ours.attach(&registry, "exact", &own("exact"), &name("exact"));
    lab.pull(&name("exact"));

    // The signature of an index covers the manifest that is chosen from it.
    let image = sample("by index");
    image.push(registry.port, "signed", "single");
    let list = index(&[image.descriptor(architecture())]);
    put_manifest(registry.port, "signed", "list", OCI_INDEX, &list);
    let listed = format!("{host}/signed:list");
    assert!(lab.refused(&listed).contains("requires a signature"));
    ours.attach(&registry, "signed", &digest(&list), &format!("{host}/signed"));
    lab.pull(&listed);

    // A key that cannot be read, a policy that is malformed: nothing is pulled.
    std::fs::write(&ours.public, "no key").expect("damage the key");
    assert!(lab.refused(&name("signed")).contains("ours.pub"));
    lab.write("policy.json", "{\"default\": [{\"type\": \"maybe\"}]}");
    let message = lab.refused(&name("open"));
    assert!(
        message.contains("policy.json") && message.contains("maybe"),
        "{message}"
    );
}

#[test]
fn an_attached_sbom_can_be_listed_and_required() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    let host = registry.host();
    let (image, kind) = (sample("with an SBOM"), "application/spdx+json");
    image.push(registry.port, "app", "1");
    policy(
        &lab,
        &json!({ host.clone(): [{"type": "referrer", "artifactType": kind}] }),
    );
    let name = format!("{host}/app:1");
    assert!(
        lab.refused(&name)
            .contains("requires an attached application/spdx+json")
    );

    put_blob(registry.port, "app", b"{}");
    put_blob(registry.port, "app", b"{\"spdxVersion\":\"SPDX-2.3\"}");
    let attach = |subject: &str, kind: &str, listed: &str| {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2},
            "layers": [{"mediaType": kind, "digest": digest(b"{\"spdxVersion\":\"SPDX-2.3\"}"), "size": 26}],
            "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": image.manifest.len()},
        })
        .to_string()
        .into_bytes();
        put_manifest(registry.port, "app", "attached", OCI_MANIFEST, &manifest);
        let list = index(&[json!({
            "mediaType": OCI_MANIFEST, "digest": digest(&manifest), "size": manifest.len(), "artifactType": listed,
            "annotations": {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
        })]);
        // Debian's registry has no referrers API: the tag is the specification's way around that.
        put_manifest(
            registry.port,
            "app",
            &image.digest().replace(':', "-"),
            OCI_INDEX,
            &list,
        );
    };
    // The list says so, but what it lists is something else, or belongs to another image.
    attach(&image.digest(), "application/other", kind);
    assert!(lab.refused(&name).contains("requires an attached"));
    attach(&digest(b"another image"), kind, kind);
    assert!(lab.refused(&name).contains("requires an attached"));
    attach(&image.digest(), kind, kind);
    lab.pull(&name);
    let listed = lab.node.ctl(&["image", "referrers", &name]).ok();
    assert!(listed.contains(kind) && listed.contains("2026-01-01"), "{listed}");
}
