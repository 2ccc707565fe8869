#!/bin/bash
echo stopped
