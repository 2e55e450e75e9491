// Runs a script or a tool of this checkout on Node 24, whatever Node the machine has.
//
//   node tools/runtime/node.cjs cli/main.ts run which-address
//   node tools/runtime/node.cjs vitest run
//
// 1. Dependencies that are missing or older than the lockfile are installed with `npm ci`.
// 2. The current Node is used if it is 24 or newer, else the one that npm has brought as a platform
//    package (see package.json beside this file).
// 3. That Node comes first on PATH, so that whatever the script starts runs on it as well.
// 4. Standard streams, signals and the exit code pass through.
//
// Ours, because npm links no .bin/node when several platform packages share that name (npm 10), and
// because a package that downloads Node in an install script is blocked by npm 12. The syntax is old
// on purpose: an old Node must get as far as the sentence that says what is missing. Nothing here
// comes from node_modules, which may not exist yet.
"use strict";

var childProcess = require("child_process");
var fs = require("fs");
var os = require("os");
var path = require("path");

var NODE_MAJOR = 24;
var EXIT_USAGE = 2;
var EXIT_SETUP = 4;
// A terminal has already told the child to stop; only a child that is still there after this long
// is told again.
var TERMINAL_GRACE_MS = 2000;
// A second signal of the same kind within this time is the same wish, passed on by npm.
var REPEAT_MS = 1000;

var root = path.resolve(__dirname, "..", "..");
var modules = path.join(root, "node_modules");
var isWindows = process.platform === "win32";

function fail(code, sentence) {
  process.stderr.write("gfn2mfn: " + sentence + "\n");
  process.exit(code);
}

function mtimeMs(file) {
  try {
    return fs.statSync(file).mtime.getTime();
  } catch (_absent) {
    return -1;
  }
}

/** npm writes its hidden lockfile last, so an installation that was cut short counts as missing. */
function installIfStale() {
  var installed = mtimeMs(path.join(modules, ".package-lock.json"));
  if (installed >= mtimeMs(path.join(root, "package-lock.json"))) return;
  process.stderr.write(
    "gfn2mfn: node_modules is " +
      (installed < 0 ? "missing" : "older than package-lock.json") +
      ", running npm ci (about 350 MB, once)\n",
  );
  // Development and platform packages are asked for by name, because NODE_ENV or a user's own
  // settings may leave them out. stdout is for results, so only what goes wrong is heard of npm.
  var args = ["ci", "--include=dev", "--include=optional", "--loglevel=error"];
  var options = { cwd: root, stdio: ["ignore", "ignore", "inherit"] };
  var npm = process.env.npm_execpath;
  var result =
    npm && /npm-cli\.c?js$/.test(npm)
      ? childProcess.spawnSync(process.execPath, [npm].concat(args), options)
      : childProcess.spawnSync("npm", args, Object.assign(options, { shell: isWindows }));
  if (result.error) fail(EXIT_SETUP, "npm could not be started (" + result.error.message + ")");
  if (result.signal) process.exit(128 + os.constants.signals[result.signal]);
  if (result.status !== 0) fail(EXIT_SETUP, "npm ci failed, so there is nothing to run with");
}

function majorOf(version) {
  return parseInt(version, 10);
}

/** Path of a Node that is new enough, or undefined. */
function findNode() {
  if (majorOf(process.versions.node) >= NODE_MAJOR) return process.execPath;
  var platform = isWindows ? "win" : process.platform;
  var names = ["node-" + platform + "-" + process.arch];
  names.push("node-bin-" + platform + "-" + process.arch);
  var folders = [modules, path.join(__dirname, "node_modules")];
  for (var i = 0; i < folders.length; i++) {
    for (var j = 0; j < names.length; j++) {
      var folder = path.join(folders[i], names[j]);
      var binary = path.join(folder, "bin", isWindows ? "node.exe" : "node");
      if (!fs.existsSync(binary)) continue;
      var manifest = fs.readFileSync(path.join(folder, "package.json"), "utf8");
      if (majorOf(JSON.parse(manifest).version) >= NODE_MAJOR) return binary;
    }
  }
  return undefined;
}

/** A bare word is a tool in node_modules/.bin, anything else is a file for Node itself. */
function resolveTool(word) {
  if (!/^[a-z][a-z0-9-]*$/.test(word)) return word;
  var link = path.join(modules, ".bin", word);
  if (!isWindows) {
    if (!fs.existsSync(link)) fail(EXIT_USAGE, "no tool named " + word + " is installed");
    return fs.realpathSync(link);
  }
  // On Windows npm writes a small command file in place of a link; it names the real script.
  var shim = mtimeMs(link + ".cmd") < 0 ? "" : fs.readFileSync(link + ".cmd", "utf8");
  var target = /"%dp0%\\([^"]+)"\s+%\*/.exec(shim);
  if (!target) fail(EXIT_USAGE, "no tool named " + word + " is installed");
  return path.join(modules, ".bin", target[1]);
}

function environmentWith(node) {
  var env = Object.assign({}, process.env);
  var key = "PATH";
  Object.keys(env).forEach(function (name) {
    if (name.toUpperCase() === "PATH") key = name;
  });
  env[key] = path.dirname(node) + path.delimiter + (env[key] || "");
  return env;
}

/** True if Ctrl-C in a terminal reaches the child by itself, since it shares our process group. */
function isInForeground() {
  if (isWindows) return true;
  try {
    // proc(5): the fields after the command name are state, ppid, pgrp, session, tty_nr, tpgid.
    var stat = fs.readFileSync("/proc/self/stat", "utf8");
    var fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[2] === fields[5];
  } catch (_noProc) {
    return Boolean(process.stdin.isTTY);
  }
}

/** Passes one kind of signal on, so that the child sees each wish to stop once. */
function forward(signal, child) {
  var lastMs = -Infinity;
  process.on(signal, function () {
    var nowMs = Date.now();
    var isRepeat = nowMs - lastMs < REPEAT_MS;
    lastMs = nowMs;
    if (isRepeat) return;
    if (signal === "SIGINT" && isInForeground()) {
      // Windows cannot send this signal, it would end the child at once.
      if (isWindows) return;
      setTimeout(function () {
        child.kill(signal);
      }, TERMINAL_GRACE_MS).unref();
    } else {
      child.kill(signal);
    }
  });
}

function run(node, args) {
  var child = childProcess.spawn(node, args, { stdio: "inherit", env: environmentWith(node) });
  forward("SIGINT", child);
  forward("SIGTERM", child);
  child.on("error", function (error) {
    fail(EXIT_SETUP, "Node could not be started (" + error.message + ")");
  });
  child.on("exit", function (code, signal) {
    process.exit(signal ? 128 + os.constants.signals[signal] : code);
  });
}

function main(args) {
  if (args.length === 0)
    fail(EXIT_USAGE, "usage: node tools/runtime/node.cjs <script or tool> [...]");
  installIfStale();
  var node = findNode();
  if (!node) {
    fail(
      EXIT_USAGE,
      "needs Node " +
        NODE_MAJOR +
        " or newer, this is " +
        process.versions.node +
        " and no package brings" +
        " one for " +
        process.platform +
        "-" +
        process.arch +
        ": install Node " +
        NODE_MAJOR +
        " and run it again",
    );
  }
  run(node, [resolveTool(args[0])].concat(args.slice(1)));
}

main(process.argv.slice(2));
