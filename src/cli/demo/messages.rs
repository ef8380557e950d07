//! The lines that the demo prints: sentences, commands, lines of the configuration file.

use std::cell::RefCell;
use std::rc::Rc;

use super::layout::{coloured, command, fold, shortened};

/// SGR code of commands: bold.
const BOLD: u8 = 1;

/// Indentation of the continuation lines of a sentence, in columns.
const INDENT: usize = 4;

/// Lines to print above the display at its next redraw. Clones share one queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Messages {
    queue: Rc<RefCell<Vec<Message>>>,
}

/// A line, which is laid out for the terminal when it is printed.
#[derive(Clone, Debug)]
enum Message {
    /// Text that may be broken between words, and the number of spaces before each line after the first.
    Text(String, usize),
    /// The words of a command that a shell understands.
    Command(Vec<String>),
    /// A line of a file with its number, cut at its end.
    FileLine(usize, String),
}

impl Messages {
    /// Queues a line of text.
    pub(super) fn push(&self, line: &str) {
        self.add(Message::Text(line.to_owned(), INDENT));
    }

    /// Queues a value behind its name, which is padded to a width.
    pub(super) fn fact(&self, name: &str, width: usize, value: &str) {
        self.add(Message::Text(
            format!("  {name:<width$}  {value}"),
            width + 4,
        ));
    }

    /// Queues a command, which is shown behind a prompt.
    pub(super) fn command(&self, words: Vec<String>) {
        self.add(Message::Command(words));
    }

    /// Queues a line of the configuration file.
    pub(super) fn file_line(&self, number: usize, line: &str) {
        self.add(Message::FileLine(number, line.to_owned()));
    }

    fn add(&self, message: Message) {
        self.queue.borrow_mut().push(message);
    }

    /// Removes the queued lines and lays them out. `columns` is the width of the terminal, if there is one.
    pub(super) fn take(&self, columns: Option<usize>, has_colour: bool) -> String {
        let lines = self.queue.take();
        let lines = lines
            .iter()
            .map(|line| line.shown(columns, has_colour) + "\n");
        lines.collect()
    }
}

impl Message {
    fn shown(&self, columns: Option<usize>, has_colour: bool) -> String {
        match self {
            Self::Text(text, indent) => match columns {
                Some(width) => fold(text, width, *indent),
                None => text.clone(),
            },
            Self::Command(words) => {
                let command = format!("$ {}", command(words, 2, columns));
                coloured(&command, has_colour.then_some(BOLD))
            }
            Self::FileLine(number, line) => {
                let room = columns.map_or(usize::MAX, |width| width - 6);
                format!("{number:>4}  {}", shortened(line, room))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_is_laid_out_in_its_way() {
        let messages = Messages::default();
        messages.push("one two three four five");
        messages.fact("users", 6, "none of many");
        messages.command(["cutover", "undo", "-c /tmp/f"].map(str::to_owned).into());
        messages.file_line(8, "split = 1   # a comment");
        let narrow = "one two three four\n    five\n  users   none of\n          many\n$ cutover undo \\\n    -c /tmp/f\n   8  split = 1\n";
        assert_eq!(messages.clone().take(Some(20), false), narrow);
        assert_eq!(messages.take(Some(20), false), "", "they are printed once");
        messages.command(["cutover", "undo"].map(str::to_owned).into());
        assert_eq!(messages.take(None, true), "\x1b[1m$ cutover undo\x1b[0m\n");
    }
}
