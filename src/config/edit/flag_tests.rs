use super::*;

/// A file with these lines after those of its service.
fn file(more: &str) -> String {
    format!(
        "listen = \":80\"\n[service.shop]\nversions = {{ v1 = [\"a:1\"] }}\ncohort.by = \"ip\"\n{more}\n"
    )
}

fn set(text: &str, flag: &str, share: &str) -> Result<String, EditError> {
    let edited = set_flag(text, "shop", flag, share)?;
    let spec = crate::config::parse(&edited, "t.toml");
    let spec = spec.unwrap_or_else(|e| panic!("{}\n{edited}", e[0]));
    let flags = &spec.services[0].flags;
    let found = flags.iter().find(|f| f.name == flag).expect("the flag");
    assert_eq!(found.share.to_string(), share, "{edited}");
    Ok(edited)
}

#[test]
fn only_the_share_changes() {
    for text in [
        "[service.shop.flags.new-checkout] # soon\n  share   = '5%'   # of users\nwhen = { path = \"/5%\" }",
        "flags = { new-checkout = { when = { path = '/' }, share = '5%' }, b = { share = '7%' } }",
        "flags.new-checkout.share = '5%'",
        "[service.shop.flags]\nb = { share = '7%' }\nnew-checkout = { share = '5%' }",
    ] {
        let text = file(text);
        let edited = set(&text, "new-checkout", "25%").unwrap();
        assert_eq!(edited, text.replace("'5%'", "\"25%\""));
    }
}

#[test]
fn a_share_is_added_after_the_conditions() {
    let text = file("[service.shop.flags.f]\nwhen = { path = '/' } # staff");
    let expected = text.replace("# staff", "# staff\nshare = \"1%\"");
    assert_eq!(set(&text, "f", "1%").unwrap(), expected);
    let text = file("flags = { f = { when = { path = '/' } } }");
    let expected = text.replace("'/' }", "'/' }, share = \"1%\"");
    assert_eq!(set(&text, "f", "1%").unwrap(), expected);
    let text = file("flags.f.when = { path = '/' }");
    let expected = text.replace("'/' }", "'/' }\nflags.f.share = \"1%\"");
    assert_eq!(set(&text, "f", "1%").unwrap(), expected);
}

#[test]
fn conditions_with_a_header_of_their_own_leave_no_line_for_it() {
    for header in [
        "[service.shop.flags.f.when]",
        "[[service.shop.flags.f.when]]",
    ] {
        let text = file(&format!("{header}\npath = '/'"));
        let error = EditError::NoShare("shop".to_owned(), "f".to_owned());
        assert_eq!(set(&text, "f", "1%"), Err(error));
    }
}

#[test]
fn a_name_that_is_unknown_gets_a_suggestion() {
    let says = |text: &str, flag: &str| set(text, flag, "1%").unwrap_err().to_string();
    let text = file("flags.new-checkout.share = '5%'");
    let wrong = says(&text, "new-chekout");
    assert!(wrong.ends_with("did you mean `new-checkout`?"), "{wrong}");
    let none = says(&file(""), "f");
    assert!(none.contains("`[service.shop.flags.NAME]`"), "{none}");
}
