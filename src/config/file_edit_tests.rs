use super::*;

const FILE: &str = "listen = \":80\"\n[service.shop] # ours\nstable = \"v1\"\nsplit = { v2 = \"5%\" } # THE line\n\
                    [service.shop.versions]\nv1 = [\"a:1\"]\nv2 = [\"a:2\"] # new\nv3 = [\"a:3\"]\n";

fn apply(edit: &FileEdit, text: &str) -> Result<String, EditRefusal> {
    edit.apply(text, "t.toml").map(|edited| edited.text)
}

fn of_v(version: &str, endpoints: &[&str], label: Option<&str>) -> VersionEdit {
    let endpoints = endpoints.iter().map(|e| (*e).to_owned());
    VersionEdit {
        service: "shop".into(),
        version: version.into(),
        endpoints: Some(endpoints.collect()),
        label: label.map(str::to_owned),
    }
}

#[test]
fn changes_of_the_split_follow_each_other() {
    let change = |version: &str, text: &str| (version.to_owned(), text.parse().unwrap());
    let edit = FileEdit::Split {
        service: "shop".into(),
        changes: vec![change("v2", "stable"), change("v3", "10%")],
    };
    let expected = FILE
        .replace("stable = \"v1\"", "stable = \"v2\"")
        .replace("{ v2 = \"5%\" }", "{ v1 = \"0%\", v3 = \"10%\" }");
    assert_eq!(apply(&edit, FILE), Ok(expected));
    assert_eq!("rollout".parse(), Ok(SplitChange::Rollout));
    assert!("5".parse::<SplitChange>().is_err());
}

#[test]
fn a_result_that_is_not_valid_is_refused_with_its_diagnostics() {
    let edit = FileEdit::Version(of_v("v2", &["no port"], None));
    let Err(EditRefusal::Invalid(why)) = apply(&edit, FILE) else {
        panic!("accepted");
    };
    assert!(why.contains("t.toml:7:8"), "{why}");
    let edit = FileEdit::Version(of_v("v9", &["a:9"], None));
    assert!(matches!(apply(&edit, FILE), Err(EditRefusal::Unknown(_))));
    let edit = FileEdit::Version(of_v("v2", &["a:9"], Some("line\nbreak")));
    assert!(matches!(apply(&edit, FILE), Err(EditRefusal::Invalid(_))));
}

#[test]
fn a_deployment_without_a_plan_cuts_over() {
    let edit = FileEdit::Deploy(of_v("v2", &["b:1", "b:2"], Some("1.1")));
    let expected = FILE
        .replace("stable = \"v1\"", "stable = \"v2\"")
        .replace("{ v2 = \"5%\" }", "{ v1 = \"0%\" }")
        .replace(
            "v2 = [\"a:2\"] # new",
            "v2 = { endpoints = [\"b:1\", \"b:2\"], label = \"1.1\" } # new",
        );
    assert_eq!(apply(&edit, FILE), Ok(expected));
}

#[test]
fn deployments_that_would_surprise_are_refused() {
    let refused = |version: &str, text: &str| {
        let edit = FileEdit::Deploy(of_v(version, &["b:1"], None));
        match apply(&edit, text) {
            Err(EditRefusal::Conflict(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let stable = refused("v1", FILE);
    assert!(stable.contains("idle version `v3`"), "{stable}");
    let whole = FILE.replace("5%", "100%");
    let why = refused("v3", &whole);
    assert!(
        why.contains("`v2` has 100%") && why.contains("cutover shift shop v2"),
        "{why}"
    );
    let again = FileEdit::Deploy(of_v("v2", &["b:1"], None));
    assert!(
        apply(&again, &whole).is_ok(),
        "its own share is no obstacle"
    );
    let unknown = FileEdit::Deploy(of_v("v22", &["b:1"], None));
    assert!(matches!(
        apply(&unknown, FILE),
        Err(EditRefusal::Unknown(_))
    ));
}

#[test]
fn an_earlier_text_replaces_only_the_running_one() {
    let running = load::hash(FILE.as_bytes());
    let text = FILE.replace("5%", "1%");
    let edit = FileEdit::Restore {
        text: text.clone(),
        running,
    };
    assert_eq!(apply(&edit, FILE), Ok(text));
    let touched = format!("{FILE}\n");
    assert!(matches!(
        apply(&edit, &touched),
        Err(EditRefusal::Conflict(_))
    ));
}

#[test]
fn the_help_for_an_unwritable_file_names_the_way() {
    let help = |kind: io::ErrorKind| unwritable_help(&kind.into()).join(" ");
    assert!(help(io::ErrorKind::ReadOnlyFilesystem).contains("kubectl edit configmap"));
    assert!(help(io::ErrorKind::PermissionDenied).contains("chmod g+w"));
    assert!(help(io::ErrorKind::StorageFull).contains("not changed"));
}
