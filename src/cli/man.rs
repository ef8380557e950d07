//! `cutover man`: prints the man page cutover(1) in roff.
//!
//! The options and commands come from clap's definitions, rendered by clap_mangen. Environment variables and files that
//! belong to no option are listed here.

use std::io::{self, Write as _};

use clap::{Args, Command, CommandFactory};
use clap_mangen::roff::{Roff, bold, roman};

use super::error::CommandError;
use super::{CommandResult, Cutover};

/// Environment variables that no option reads through clap.
const ENVIRONMENT: [(&str, &str); 3] = [
    (
        "CUTOVER_TOKEN",
        "Token for the admin API, where no --token-file is given.",
    ),
    (
        "CUTOVER_LOG",
        "Log filter of run: error, warn, info (default), debug or off, and levels for single modules or libraries, \
         such as debug,h2=debug.",
    ),
    (
        "CUTOVER_LOG_FORMAT",
        "Log format of run: text (default) or json.",
    ),
];

const FILES: [(&str, &str); 3] = [
    (
        "./cutover.toml, /etc/cutover/cutover.toml",
        "Configuration, in this order, where neither -c nor CUTOVER_CONFIG names one.",
    ),
    (
        "$STATE_DIRECTORY, $XDG_STATE_HOME/cutover, ~/.local/state/cutover, /var/lib/cutover",
        "State directory, the first that applies, where state_dir is not configured: control sockets and the key of \
         sticky sessions.",
    ),
    (
        "control-*.sock in the state directory",
        "Control socket of a running proxy; the name is a hash of the path of its configuration file.",
    ),
];

const DESCRIPTION: &str = "The command run serves the traffic that a configuration file describes. The other commands \
    check or edit such a file, or talk to the running proxy, which they find by its configuration file over a control \
    socket in the state directory, or at the address that --admin names. A saved configuration file is reloaded without \
    a restart.";

/// Prints cutover(1) in roff.
#[derive(Debug, Args)]
#[command(after_help = "To install the page: cutover man > /usr/local/share/man/man1/cutover.1")]
pub(crate) struct ManArgs {}

impl ManArgs {
    pub(crate) fn run(&self) -> CommandResult {
        let failed = |error| CommandError::new(format!("can't write the man page: {error}"));
        let page = page().map_err(failed)?;
        io::stdout().lock().write_all(&page).map_err(failed)?;
        Ok(0)
    }
}

/// Renders one page for the program and all of its commands.
fn page() -> io::Result<Vec<u8>> {
    // The command must not be built: building copies the global options into every subcommand, and the page would repeat
    // them in every section.
    let program = Cutover::command().about(env!("CARGO_PKG_DESCRIPTION"));
    let commands: Vec<Command> = program.get_subcommands().cloned().collect();
    let whole = program
        .disable_help_subcommand(true)
        .subcommand_value_name("command");
    let whole = clap_mangen::Man::new(whole);
    let mut page = Vec::new();
    whole.render_title(&mut page)?;
    section(&mut page, "NAME", |w| whole.render_name_section(w))?;
    section(&mut page, "SYNOPSIS", |w| whole.render_synopsis_section(w))?;
    write(&mut page, |roff| {
        roff.control("SH", ["DESCRIPTION"])
            .text([roman(DESCRIPTION)]);
    })?;
    section(&mut page, "OPTIONS", |w| whole.render_options_section(w))?;
    heading(&mut page, "SH", "COMMANDS")?;
    for command in commands.into_iter().filter(|c| !c.is_hide_set()) {
        render_command(&mut page, command)?;
    }
    list(&mut page, "ENVIRONMENT", &ENVIRONMENT)?;
    list(&mut page, "FILES", &FILES)?;
    Ok(page)
}

/// Renders a command as a subsection: summary, synopsis, options, and the text below its help.
fn render_command(page: &mut Vec<u8>, command: Command) -> io::Result<()> {
    let name = format!("cutover {}", command.get_name());
    let has_more = command.get_after_help().is_some();
    let man = clap_mangen::Man::new(command.bin_name(&name).disable_help_flag(true));
    heading(page, "SS", &name)?;
    body(page, |w| man.render_description_section(w))?;
    paragraph(page)?;
    body(page, |w| man.render_synopsis_section(w))?;
    body(page, |w| man.render_options_section(w))?;
    if has_more {
        paragraph(page)?;
        body(page, |w| man.render_extra_section(w))?;
    }
    Ok(())
}

fn section(
    page: &mut Vec<u8>,
    title: &str,
    render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    heading(page, "SH", title)?;
    body(page, render)
}

/// Appends the roff of clap_mangen for a section, without its preamble and its heading.
fn body(page: &mut Vec<u8>, render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
    let mut section = Vec::new();
    render(&mut section)?;
    let mut lines = section.split_inclusive(|byte| *byte == b'\n');
    if lines.any(|line| line.starts_with(b".SH")) {
        lines.for_each(|line| page.extend_from_slice(line));
    }
    Ok(())
}

fn heading(page: &mut Vec<u8>, request: &str, text: &str) -> io::Result<()> {
    write(page, |roff| {
        roff.control(request, [text]);
    })
}

fn paragraph(page: &mut Vec<u8>) -> io::Result<()> {
    write(page, |roff| {
        roff.control("PP", []);
    })
}

/// Appends a section of terms, each with its meaning.
fn list(page: &mut Vec<u8>, title: &str, entries: &[(&str, &str)]) -> io::Result<()> {
    write(page, |roff| {
        roff.control("SH", [title]);
        for (term, meaning) in entries {
            roff.control("TP", []);
            roff.text([bold(*term)]).text([roman(*meaning)]);
        }
    })
}

fn write(page: &mut Vec<u8>, build: impl FnOnce(&mut Roff)) -> io::Result<()> {
    let mut roff = Roff::new();
    build(&mut roff);
    page.write_all(roff.to_roff().as_bytes())
}
